"""The LoRAs of single requests: loaded before a run, and removed before one that has others."""

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from diffoundry.runtime.errors import InputError

if TYPE_CHECKING:
    from diffoundry.runtime.pipelines.base import PipelineBase
    from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline

__all__ = ["RequestLora", "RequestLoras"]


class RequestLora(NamedTuple):
    """A LoRA of a request.

    Attributes:
        scale: Its scale.
        version: Time of the last change and size of its file when the request came; None if there was no file.
    """

    scale: float
    version: tuple[int, int] | None


class RequestLoras:
    """LoRAs that requests have loaded, beside those that the owner of a pipeline has. Safe to share between threads.

    Adapters change an engine for all of its calls, so runs with different LoRAs of one pipeline never overlap.
    """

    def __init__(self) -> None:
        """Nothing is loaded."""
        self._lock = threading.Lock()
        self._loaded: WeakKeyDictionary[PipelineBase, dict[str, RequestLora]] = WeakKeyDictionary()

    def check(self, pipeline: "PipelineBase", loras: Mapping[str, float] | None) -> dict[str, RequestLora]:
        """Return the LoRAs of a request, by path.

        Raises:
            InputError: The pipeline takes none, or they are no mapping of paths to scales.
        """
        if not loras:
            return {}
        if not hasattr(pipeline, "loras"):
            raise InputError(
                f"loras: got {len(loras)} for a pipeline that takes none at run time; leave them out, or export with "
                f"--lora"
            )
        for path, scale in loras.items():
            if isinstance(scale, bool) or not isinstance(scale, int | float):
                raise InputError(f"loras: got the scale {scale!r} for {str(path)!r}, expected a number such as 0.8")
        return {str(path): RequestLora(float(scale), _version(path)) for path, scale in loras.items()}

    def apply(self, pipeline: "DiffusionPipeline", loras: Mapping[str, RequestLora]) -> None:
        """Load the LoRAs of a request and remove those of others; no run of the pipeline with others is under way.

        A file that was replaced since is loaded again.

        Raises:
            InputError: A file is no LoRA for this model.
            EngineError: The engines take no adapters.
        """
        with self._lock:
            if not loras and pipeline not in self._loaded:
                return
            loaded = self._loaded.setdefault(pipeline, {})
            kept = {path for path in loaded if path in loras and loaded[path].version == loras[path].version}
            for path in [path for path in loaded if path not in kept]:
                pipeline.loras.unload(path)
                del loaded[path]
            for path, lora in loras.items():
                if path not in loaded:
                    pipeline.loras.load(path, scale=lora.scale, name=path)
                elif loaded[path].scale != lora.scale:
                    pipeline.loras.set_scale(lora.scale, path)
                loaded[path] = lora


def _version(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None  # loading it says so
    return found.st_mtime_ns, found.st_size
