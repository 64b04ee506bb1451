"""Fixtures: tiny single files, and the architectures that detect them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from single_files import read_folder, write_tensors

from diffoundry.exporter.checkpoints.single_file import architectures
from diffoundry.exporter.checkpoints.single_file.architectures import ARCHITECTURES

KINDS = {
    "sd1": "sd1",
    "sd2": "sd2",
    "inpaint": "sd1",
    "instruct": "sd1",
    "xl": "xl",
    "xl-inpaint": "xl",
    "xl-instruct": "xl",
    "xl-refiner": "refiner",
}
"""Tiny checkpoint to the kind of single file that it would be."""

PLACES = ("sd1", "sd2", "xl", "refiner")
"""Kinds in the order of `ARCHITECTURES`."""

CONFIGS = {"sd1": "sd1", "sd2": "sd2", "xl": "xl", "refiner": "xl-refiner"}
"""Kind to the tiny checkpoint whose configs stand for those that are installed."""


@pytest.fixture(scope="session")
def tiny_tensors(tiny_sd_checkpoint: Callable[[str], Path]) -> Callable[[str], dict[str, Any]]:
    """Factory: all tensors of a tiny checkpoint's single file."""
    return lambda variant: read_folder(tiny_sd_checkpoint(variant), KINDS[variant])


@pytest.fixture(scope="session")
def tiny_file(tiny_tensors: Callable[[str], dict[str, Any]], shared_folder: Path) -> Callable[[str], Path]:
    """Factory: the single file of a tiny checkpoint; shared, so never write into it."""

    def make(variant: str) -> Path:
        path = shared_folder / f"single-{variant}.safetensors"
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                marks = {"modelspec.prediction_type": "v"} if variant == "sd2" else {}
                write_tensors(tiny_tensors(variant), path, marks)
        return path

    return make


@pytest.fixture
def tiny_architecture(
    tiny_sd_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Call with a tiny checkpoint's name: its kind then uses tiny configs instead of the installed ones."""

    def use(variant: str) -> None:
        kind = KINDS[variant]
        configs = tmp_path / f"configs-{kind}"
        shutil.copytree(tiny_sd_checkpoint(CONFIGS[kind]), configs, ignore=shutil.ignore_patterns("*.safetensors"))
        tiny = replace(ARCHITECTURES[PLACES.index(kind)], configs=configs)
        monkeypatch.setattr(architectures, "ARCHITECTURES", (tiny,))

    return use
