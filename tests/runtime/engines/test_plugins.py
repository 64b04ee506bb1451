"""The door for targets, walked through with a real installed distribution."""

import importlib
import sys

import pytest

from diffoundry.runtime.engines.plugins import find_plugin, list_plugins
from diffoundry.runtime.errors import EngineError, InputError, MissingExtraError

_MODULE = """
from diffoundry.runtime.engines.plugins import TargetPlugin
PLUGIN = TargetPlugin(
    name="paper", summary="prints on paper", module="paper_sdk", extra="paper",
    target="foundry_paper:Target", engine="foundry_paper.engine:open_engine", devices="foundry_paper:devices",
    precisions="foundry_paper:precisions",
)
Target = "a target"
NOT_A_PLUGIN = 7
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install distributions that offer targets: `install(dist, "name = module:attribute")`."""
    (tmp_path / "foundry_paper.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(distribution: str, entry: str) -> None:
        info = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[diffoundry.targets]\n{entry}\n")
        importlib.invalidate_caches()

    yield make
    sys.modules.pop("foundry_paper", None)


def test_our_own_targets_use_the_door():
    assert find_plugin("onnxruntime").module == "onnxruntime"


def test_a_strangers_target_is_found(install):
    install("foundry-paper", "paper = foundry_paper:PLUGIN")
    assert "paper" in [plugin.name for plugin in list_plugins()]
    assert find_plugin("paper").load("target") == "a target"


def test_a_target_that_is_installed_later_is_found(install):
    """Entry points are read again after a change of the search path's folders."""
    assert "paper" not in [plugin.name for plugin in list_plugins()]
    install("foundry-paper", "paper = foundry_paper:PLUGIN")
    assert "paper" in [plugin.name for plugin in list_plugins()]


def test_missing_library_names_the_extra(install):
    install("foundry-paper", "paper = foundry_paper:PLUGIN")
    message = r"target 'paper' needs .* 'foundry_paper'.*Install it with: pip install .*\[export\]'"
    with pytest.raises(MissingExtraError, match=message):
        find_plugin("paper").load("engine")


def test_unknown_target_lists_those_there_are():
    with pytest.raises(InputError, match="target: got 'abacus', expected one of .*onnxruntime"):
        find_plugin("abacus")


def test_a_name_claimed_twice_lists_the_claimants(install):
    install("paper-one", "paper = foundry_paper:PLUGIN")
    install("paper-two", "paper = foundry_paper:PLUGIN")
    with pytest.raises(
        EngineError, match="target 'paper': claimed by paper-(one|two), paper-(one|two); uninstall all but"
    ):
        list_plugins()


def test_something_else_than_a_plugin_is_refused(install):
    install("foundry-paper", "paper = foundry_paper:NOT_A_PLUGIN")
    with pytest.raises(EngineError, match="gives 7, expected a TargetPlugin of that name"):
        list_plugins()
