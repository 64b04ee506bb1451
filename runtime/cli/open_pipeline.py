"""Opens the pipeline of a bundle, or of several whose names are joined by a plus."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffoundry.runtime import load
from diffoundry.runtime.bundle.hub import find_bundle
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.chain import chain

__all__ = ["find_chain", "open_pipeline", "split_chain"]


def split_chain(value: str) -> list[str]:
    """Split the names of bundles at each plus; a folder of the whole name is one bundle."""
    return [value] if Path(value).exists() else value.split("+")


def find_chain(value: str, subject: str) -> tuple[Path, ...]:
    """Find the folders of bundles that are joined by a plus.

    Args:
        value: As typed.
        subject: Its name in messages.

    Raises:
        InputError: One has no name.
    """
    names = split_chain(value)
    if not all(names):
        raise InputError(
            f"{subject}: got {value!r}, expected a bundle on both sides of a plus; remove the plus or add one"
        )
    return tuple(find_bundle(name) for name in names)


def open_pipeline(bundles: Sequence[Path], **engines: Any) -> PipelineBase:
    """Load a bundle, or chain several.

    Args:
        bundles: Folders, at least one.
        engines: Keyword arguments of `load`, for each bundle.

    Raises:
        BundleError, EngineError, InputError: As `load` and `chain`.
    """
    opened = [load(one, **engines) for one in bundles]
    return opened[0] if len(opened) == 1 else chain(*opened)
