"""The stages of a system, and a run over them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.denoising import Step, StopSignal
from diffoundry.runtime.pipelines.run import Run

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Stage", "StagedRun", "run_stages"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stage:
    """One loop of a system.

    Attributes:
        name: Shown in the progress and in `Step.stage`.
        total: Number of its steps.
        run: (result of the stage before; None for the first) -> the steps. The latents of the last one are its result.
    """

    name: str
    total: int
    run: Callable[[FloatArray | None], Iterator[Step]]


@dataclass(kw_only=True, slots=True, repr=False)
class StagedRun(Run[Any]):
    """A run of several stages; its latents are empty before the first step.

    Attributes:
        last_stage: Name of the stage whose latents become images.
        make_result: (final latents, seed, truncated) -> the result; None decodes the latents, as `Run` does.
    """

    last_stage: str
    make_result: Callable[[FloatArray, Any, tuple[str, ...]], Any] | None = None
    _stage: str = ""

    def __iter__(self) -> Iterator[Step]:
        """Run the remaining steps one by one; see `Run`."""
        for step in Run.__iter__(self):
            self._stage = step.stage
            yield step

    def finish(self) -> Any:
        """Run all steps, unless a loop did, and decode; see `Run`."""
        if self.make_result is None:
            return Run.finish(self)
        self._complete()
        return self.make_result(self.latents, self.seed, self.truncated)

    def preview(self) -> "list[Image]":
        """Decode the current latents, with the safety checker where there is one.

        Raises:
            InputError: The latents of this stage are no image yet.
        """
        if self._stage != self.last_stage:
            raise InputError(
                f"preview: got step {self._done} of {self.total}, expected a step of the stage {self.last_stage!r}, "
                f"whose latents become images; go on iterating over the run"
            )
        return Run.preview(self)


def run_stages(stages: Sequence[Stage], signal: StopSignal) -> Iterator[Step]:
    """Run one stage after the other; steps are counted over all of them.

    An interrupt before the last stage cancels: its result is no image.
    """
    total, done = sum(stage.total for stage in stages), 0
    latents: FloatArray | None = None
    for stage in stages:
        for step in stage.run(latents):
            latents = step.latents
            ends = step.index + 1 == stage.total
            yield replace(step, index=done + step.index, total=total, stage=stage.name, ends_stage=ends)
        done += stage.total
        if signal.interrupted and stage is not stages[-1]:
            signal.cancelled = True
        if signal.cancelled:
            return
