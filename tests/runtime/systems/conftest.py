"""The tiny checkpoint and the bundle of a system, each made once a session."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def system_checkpoint(shared_folder: Path) -> Callable[..., Path]:
    """Factory: the folder of a tiny random checkpoint, `system_checkpoint(name, make)`; shared, so never write into it.

    `make(folder)` writes it, with a seed of its own. A name stands for one `make`.
    """

    def find(name: str, make: Callable[[Path], Any]) -> Path:
        import torch

        folder = shared_folder / f"system-{name}"
        with FileLock(shared_folder / f"system-{name}.lock"):
            if not (folder / "model_index.json").is_file():
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    make(folder)
        return folder

    return find
