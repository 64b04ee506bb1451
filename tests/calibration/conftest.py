"""A tiny pipeline in float, opened for calibration."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diffoundry.calibration.tasks import Case, Generation
from diffoundry.exporter.calibrate.reference import FloatReference

CASES = tuple(Case(prompt=prompt, seed=i) for i, prompt in enumerate(("red apple", "cat face", "rocket", "snowman")))


@pytest.fixture
def cases() -> tuple[Case, ...]:
    return CASES


@pytest.fixture
def tiny_folder(exported: Callable[..., Path], tiny_sd_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A bundle of random weights that a test may write into."""
    return Path(shutil.copytree(exported(tiny_sd_checkpoint()), tmp_path / "tiny.bundle"))


@pytest.fixture
def studio(tiny_folder: Path) -> Iterator[FloatReference]:
    """Its float pipeline, generation in three steps."""
    studio = FloatReference(tiny_folder, Generation(steps=3), threads=1)
    yield studio
    studio.close()
