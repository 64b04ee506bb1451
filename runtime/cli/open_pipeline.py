"""Opens the pipeline of a bundle, or of several that are joined by a plus."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffoundry.runtime import load
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.chain import chain

__all__ = ["open_pipeline"]


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
