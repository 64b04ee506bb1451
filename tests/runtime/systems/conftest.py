"""The bundle of a system, made once a session."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def class_bundle(
    system_checkpoint: Callable[..., Path],
    exported: Callable[..., Path],
    tiny_controlnet: Callable[..., Path],
    tiny_t2i_adapter: Callable[..., Path],
) -> Callable[[str], Path]:
    """Factory: the bundle of a class, without a safety checker, whose black images would equal PyTorch's."""
    from class_checkpoints import CLASS_CHECKPOINTS

    def find(name: str) -> Path:
        found = CLASS_CHECKPOINTS[name]
        net, kind = found.controlnet, found.t2i_adapter
        nets = () if net is None else (str(tiny_controlnet(found.base, net)),)
        adapters = () if kind is None else (str(tiny_t2i_adapter(found.base, kind)),)
        folder = system_checkpoint(f"class-{name}", found.make)
        checked = (folder / "safety_checker").is_dir()
        without = ("safety_checker",) if checked else ()
        return exported(folder, controlnets=nets, t2i_adapters=adapters, without=without)

    return find
