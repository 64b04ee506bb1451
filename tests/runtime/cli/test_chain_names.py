"""Names of bundles that are joined by a plus: which commands take them, and wrong ones."""

import pytest


@pytest.mark.parametrize("command", ["bench", "inspect", "schedulers", "set", "verify", "compare", "deploy"])
def test_other_commands_take_one_bundle(typed, command):
    code, _, _ = typed(command, "prior.bundle+decoder.bundle")
    assert code == (
        "error: DIR: got the chain prior.bundle+decoder.bundle, expected one bundle: only 'diffoundry generate' and "
        "'diffoundry serve' run chains; pass each bundle alone"
    )


@pytest.mark.parametrize("name", ["prior.bundle+", "+decoder.bundle", "a++b"])
def test_a_plus_has_a_bundle_on_both_sides(typed, name):
    code, _, _ = typed("generate", name, "a red apple")
    assert code == f"error: DIR: got {name!r}, expected a bundle on both sides of a plus; remove the plus or add one"


def test_a_folder_with_a_plus_in_its_name_is_one_bundle(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a+b").mkdir()
    code, _, _ = typed("inspect", "a+b")
    assert "bundle a+b: got a folder without diffoundry.json" in code
