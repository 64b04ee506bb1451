"""Files are written whole, or what was there before stays."""

import os

import pytest

from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.errors import BundleError


def test_text_takes_the_place_of_what_was_there(tmp_path):
    path = tmp_path / "new/folder/x.json"
    for text in ("eins\n", "zwei – ü\n"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]


def test_a_disk_without_room_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_text(path, "old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(BundleError, match=r"x\.json: cannot be written \(No space left on device\); free some space"):
        write_text(path, "new")
    assert path.read_text() == "old"
