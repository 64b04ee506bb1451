"""One call under way: an iterator over its steps."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, cast

from diffoundry.runtime.engines.run_memory import RunMemory, with_memory
from diffoundry.runtime.errors import CancelledError, InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.denoising import Step, StopSignal
from diffoundry.runtime.pipelines.output import ImagesT, PipelineOutput
from diffoundry.runtime.schedulers import Scheduler

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Run"]


@dataclass(kw_only=True, slots=True, repr=False)
class Run(Generic[ImagesT]):
    """One call under way: an iterator over its steps. Belongs to one thread, but for `cancel`.

    Attributes:
        steps: The denoising loop.
        total: Number of steps.
        count: Number of images.
        latents: The current latents, float32 (B, ...).
        decode: (latents, output type) -> (images, flags of the safety checker).
        finish_images: Converts the decoded PIL images to those that the caller gets, or None.
        output_type: As `CommonInputs.output_type`.
        seed: As `PipelineOutput.seed`.
        truncated: As `PipelineOutput.truncated`.
        scheduler: The scheduler of this run; None where there are no steps.
        arguments: Every argument of the call that has a value, defaults and the size included.
        signal: Ends the loop early.
        more_results: () -> further attributes of the result; None for none.
    """

    steps: Iterator[Step]
    total: int
    count: int
    latents: FloatArray
    decode: "Callable[[FloatArray, str], tuple[Any, list[bool] | None]]"
    finish_images: "Callable[[list[Image]], list[Image]] | None"
    output_type: str
    seed: int | tuple[int, ...] | None
    truncated: tuple[str, ...]
    scheduler: Scheduler[Any] | None
    arguments: Mapping[str, Any]
    signal: StopSignal
    more_results: Callable[[], Mapping[str, Any]] | None = None
    _done: int = 0
    _left: bool = False
    _memory: RunMemory = field(default_factory=RunMemory)

    def __iter__(self) -> Iterator[Step]:
        """Run the remaining steps one by one. Call `cancel` to end the run; iterate again to go on after a break."""
        self._left = True
        for step in with_memory(self.steps, self._memory):
            self.latents, self._done = step.latents if step.result is None else step.result, step.index + 1
            yield step
        self._left = False

    def cancel(self) -> None:
        """End the run before its next step; any thread may call this. The loop ends, and `finish` refuses."""
        self.signal.cancelled = True

    def preview(self) -> "list[Image]":
        """Decode the current latents, with the safety checker where there is one."""
        return cast("list[Image]", self.decode(self.latents, "pil")[0])

    def finish(self) -> PipelineOutput[ImagesT]:
        """Run all steps, unless a loop did, and decode.

        Raises:
            CancelledError: The run was cancelled.
            InputError: A loop over the steps was left before the last one.
        """
        self._complete()
        images, flags = self.decode(self.latents, self.output_type)
        if self.finish_images is not None:
            images = self.finish_images(images)
        more = {} if self.more_results is None else self.more_results()
        return PipelineOutput(images, self.seed, self.truncated, flags, **more)

    def _complete(self) -> None:
        if self._left and not self.signal.cancelled:
            raise InputError(
                f"finish: the loop over the steps was left after {self._done} of {self.total}; iterate over the run "
                f"again for the others, or call preview() for an image of the current latents"
            )
        for _ in self:
            pass
        if self.signal.cancelled:
            raise CancelledError(f"the run was cancelled after {self._done} of {self.total} steps; start it again")

    def __repr__(self) -> str:
        return f"Run({self._done} of {self.total} steps, seed={self.seed}, {type(self.scheduler).__name__})"
