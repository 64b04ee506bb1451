"""The folder for our files in the user's cache."""

import sys
from pathlib import Path

import pytest

from diffoundry.runtime.cache_folder import cache_folder


@pytest.mark.parametrize(
    ("platform", "environment", "folder"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/diffoundry/tensorrt"),
        ("linux", {}, "/home/u/.cache/diffoundry/tensorrt"),
        ("darwin", {}, "/home/u/Library/Caches/diffoundry/tensorrt"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/diffoundry/tensorrt"),
    ],
)
def test_the_cache_is_where_the_system_wants_it(monkeypatch, platform, environment, folder):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/u"))
    assert cache_folder("tensorrt") == Path(folder)
