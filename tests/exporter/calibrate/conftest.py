"""A tiny pipeline in float, opened for calibration."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diffoundry.calibration.prompts import SeededPrompt
from diffoundry.exporter.calibrate.float_reference import FloatReference
from diffoundry.exporter.calibrate.generation_tasks import PromptTask

PROMPTS = tuple(
    SeededPrompt(text=prompt, seed=i) for i, prompt in enumerate(("red apple", "cat face", "rocket", "snowman"))
)


@pytest.fixture
def prompts() -> tuple[SeededPrompt, ...]:
    return PROMPTS


@pytest.fixture
def tiny_folder(exported: Callable[..., Path], tiny_sd_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A bundle of random weights that a test may write into."""
    return Path(shutil.copytree(exported(tiny_sd_checkpoint("sd1-small")), tmp_path / "tiny.bundle"))


@pytest.fixture
def reference(tiny_folder: Path) -> Iterator[FloatReference]:
    """Its float pipeline, generation in three steps."""
    reference = FloatReference(tiny_folder, PromptTask(steps=3), threads=1)
    yield reference
    reference.close()
