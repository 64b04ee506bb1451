"""Fixtures for the exporter's tests."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def own_checkpoint(tiny_sd_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may spoil."""
    return Path(shutil.copytree(tiny_sd_checkpoint(), tmp_path / "own"))
