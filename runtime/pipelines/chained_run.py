"""The run of a chain: the steps of one pipeline, then those of the next."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.denoising import Step, StopSignal
from diffoundry.runtime.pipelines.run import Run
from diffoundry.runtime.pipelines.staged_run import StagedRun

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["LAST", "ChainParts", "ChainedRun"]

LAST = "last"
"""Stage of the steps of the last pipeline."""


class ChainParts:
    """Both runs of a chain."""

    def __init__(self, *, first: Run[Any], handed: Any, start: Any, arguments: Mapping[str, Any]) -> None:
        self._first = first
        self._handed = handed
        self._start = start
        self._arguments = arguments
        self._last: Run[Any] | None = None

    def steps(self, generator: Any, signal: StopSignal) -> Iterator[Step]:
        """Run both pipelines; the second begins when the first has ended."""
        expected = self._first.total
        for step in self._first:
            yield replace(step, total=expected, stage="first" if step.stage in ("", LAST) else step.stage)
            if signal.cancelled or signal.interrupted:
                break
        if signal.cancelled or signal.interrupted or self._first.signal.interrupted:
            signal.cancelled = True  # what the first gives is no image
            return
        handed = self._handed(self._first.finish())
        self._last = self._start(**self._arguments, **handed, generator=generator)
        done, total = self._first.total, self._first.total + self._last.total
        for step in self._last:
            yield replace(step, index=done + step.index, total=total, stage=LAST)
            self._last.signal.cancelled |= signal.cancelled
            self._last.signal.interrupted |= signal.interrupted  # a callback of the last may have set it

    def result(self, latents: FloatArray, seed: Any, truncated: tuple[str, ...]) -> Any:  # noqa: ARG002
        """Return the result of the last pipeline, with the seed of the chain and what the first cut off."""
        assert self._last is not None, "the last stage has begun"
        return replace(self._last.finish(), seed=seed, truncated=truncated)

    def decode(self, latents: FloatArray, output_type: str) -> tuple[Any, list[bool] | None]:
        """Decode with the last pipeline."""
        assert self._last is not None, "the last stage has begun"
        images, flags = self._last.decode(latents, output_type)
        finish = self._last.finish_images
        return (images if finish is None else finish(images)), flags


@dataclass(kw_only=True, slots=True, repr=False)
class ChainedRun(StagedRun):
    """A run over the steps of two pipelines. Its total is exact once the second has begun.

    Attributes:
        preview_first: Decodes the latents of the first pipeline; None where they are no image.
    """

    preview_first: "Callable[[], list[Image]] | None" = None

    def __iter__(self) -> Iterator[Step]:
        """Run the remaining steps one by one; see `Run`."""
        for step in StagedRun.__iter__(self):
            self.total = step.total if step.stage == LAST else self.total
            yield step

    def preview(self) -> "list[Image]":
        """Decode the current latents, of the first pipeline while that runs; see `StagedRun`."""
        if self._stage not in ("", LAST) and self.preview_first is not None:
            return self.preview_first()
        return StagedRun.preview(self)
