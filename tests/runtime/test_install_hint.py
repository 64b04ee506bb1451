"""The install command of messages: what pip takes for the origin that it recorded."""

import importlib.resources
import json
import os
import re
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from diffoundry.exporter.checkpoints.aliases import alias_folder
from diffoundry.runtime.errors import CheckpointError, MissingExtraError
from diffoundry.runtime.install_hint import install_command, install_models_command

_REQUIRES = [
    "numpy>=2.0",
    'click>=8.1; extra == "cli"',
    'rich>=13.0 ; extra == "cli"',
    "torch>=2.9; extra == 'export'",
]

_COMMIT = {"vcs": "git", "commit_id": "abc123"}


class _Installed:
    def __init__(self, text):
        self.text, self.requires = text, _REQUIRES

    def read_text(self, name):
        return self.text if name == "direct_url.json" else None


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (
            json.dumps({"url": "file:///src/clone", "dir_info": {"editable": True}}),
            "pip install -e '/src/clone[cli]'",
        ),
        (json.dumps({"url": "file://{here}", "dir_info": {"editable": True}}), "pip install -e '.[cli]'"),
        (json.dumps({"url": "file:///src/my%20clone", "dir_info": {}}), "pip install '/src/my clone[cli]'"),
        (
            json.dumps({"url": "file:///w/diffoundry-0.1.0-py3-none-any.whl", "archive_info": {}}),
            "pip install '/w/diffoundry-0.1.0-py3-none-any.whl[cli]'",
        ),
        (
            json.dumps({"url": "https://host/team/diffoundry", "vcs_info": _COMMIT}),
            "pip install 'diffoundry[cli] @ git+https://host/team/diffoundry@abc123'",
        ),
        (
            json.dumps({"url": "https://host/diffoundry-0.1.0.tar.gz", "archive_info": {}}),
            "pip install 'diffoundry[cli] @ https://host/diffoundry-0.1.0.tar.gz'",
        ),
        (None, "pip install 'click>=8.1' 'rich>=13.0'"),
        ("[]", "pip install 'click>=8.1' 'rich>=13.0'"),
        ("not json", "pip install 'diffoundry[cli]'"),
    ],
    ids=["clone", "here", "folder", "wheel", "repository", "archive", "index", "list", "damaged"],
)
def test_the_command_follows_from_the_recorded_origin(monkeypatch, tmp_path, text, command):
    monkeypatch.chdir(tmp_path)
    text = text and text.replace("{here}", os.fspath(tmp_path))
    monkeypatch.setattr(metadata, "distribution", lambda _name: _Installed(text))
    assert install_command("cli") == command
    assert str(MissingExtraError("x", "click", "cli")).endswith(f"Install it with: {command}")


def test_without_metadata_the_name_is_left(monkeypatch):
    def fail(_name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "distribution", fail)
    assert install_command("cli") == "pip install 'diffoundry[cli]'"


def test_demo_models_come_from_the_clone(monkeypatch, tmp_path):
    record = json.dumps({"url": f"file://{tmp_path}", "dir_info": {"editable": True}})
    monkeypatch.setattr(metadata, "distribution", lambda _name: _Installed(record))
    elsewhere = "pip install ./models (in a clone of the repository)"
    assert install_models_command() == elsewhere
    (tmp_path / "models").mkdir()
    assert install_models_command() == f"pip install '{tmp_path}/models'"
    monkeypatch.chdir(tmp_path)
    assert install_models_command() == "pip install './models'"
    monkeypatch.setattr(metadata, "distribution", lambda _name: _Installed(None))
    assert install_models_command() == elsewhere
    monkeypatch.setattr(importlib.resources, "files", _no_package)
    with pytest.raises(CheckpointError, match=re.escape(f"which is not installed. Install it with: {elsewhere}")):
        alias_folder("diffoundry_models/emoji")


def _no_package(_name):
    raise ModuleNotFoundError


def test_libraries_are_those_that_packaging_selects(monkeypatch):
    """As pip selects them, from this installation's own metadata."""
    installed = metadata.distribution("diffoundry")
    requirements = [Requirement(line) for line in installed.requires]
    fake = _Installed(None)
    fake.requires = installed.requires
    monkeypatch.setattr(metadata, "distribution", lambda _name: fake)
    for extra in ("cli", "report", "export", "onnxruntime", "tensorrt-rtx"):
        optional = [one for one in requirements if one.marker and not one.marker.evaluate({"extra": ""})]
        expected = [one.name for one in optional if one.marker.evaluate({"extra": extra})]
        words = install_command(extra).removeprefix("pip install ").split("' '")
        assert [Requirement(word.strip("'")).name for word in words] == expected
