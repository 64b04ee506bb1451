"""Places of deployments: nothing is overwritten unasked, and an error leaves nothing behind."""

import shutil

import pytest

from diffoundry.runtime.cli.group import group
from diffoundry.runtime.errors import InputError
from diffoundry.serving.deploy import docker


def _deploy(bundle, output, *more):
    group.main(["deploy", str(bundle), "--to", "docker", "-o", str(output), *more], standalone_mode=False)


def test_only_a_deployment_is_replaced_and_only_when_asked(emoji, tmp_path):
    _deploy(emoji, tmp_path / "out")
    (tmp_path / "out/mine.txt").touch()
    with pytest.raises(InputError, match=r"--output .*out: exists already; .* or pass --overwrite to replace it"):
        _deploy(emoji, tmp_path / "out")
    _deploy(emoji, tmp_path / "out", "--overwrite")
    assert not (tmp_path / "out/mine.txt").exists()
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="other: exists and was not made by 'diffoundry deploy', so it is not"):
        _deploy(emoji, tmp_path / "other", "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_a_place_that_cannot_be_written_is_refused(emoji, tmp_path):
    with pytest.raises(InputError, match=r"--output .*emoji\.bundle/x: lies in the bundle .*emoji\.bundle; choose"):
        _deploy(emoji, emoji / "x")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--output .*file/x: cannot be written \(.+\); choose another folder"):
        _deploy(emoji, tmp_path / "file/x")


def test_a_full_disk_leaves_the_earlier_deployment(emoji, tmp_path, monkeypatch):
    _deploy(emoji, tmp_path / "out")

    def fail(bundle, folder):
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(docker, "write_dockerfile", fail)
    with pytest.raises(InputError, match=r"out: cannot be written \(No space left on device\); free some space"):
        _deploy(emoji, tmp_path / "out", "--overwrite")
    assert (tmp_path / "out/Dockerfile").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_name_that_cannot_be_that_of_a_model_is_refused(emoji, tmp_path):
    copy = shutil.copytree(emoji, tmp_path / "my apple.bundle")
    with pytest.raises(InputError, match=r"DIR .*my apple\.bundle: the name of the folder becomes that of a model, so"):
        _deploy(copy, tmp_path / "out")
