"""One call of a system: its arguments, and what its stages need while they are made."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.checks.approximations import parse_cache
from diffoundry.runtime.checks.arguments import check_result
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.approximations.approximate import with_cache
from diffoundry.runtime.pipelines.denoising import AfterStep, Predict, Step, StepEnd, StopSignal, denoise
from diffoundry.runtime.random import Generator, GeneratorInput, randn_tensor
from diffoundry.runtime.schedulers import Scheduler, SchedulerInput

__all__ = ["RunInputs", "StagedCall"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInputs:
    """The arguments of every system's call; its own are in `StagedPipeline.Inputs`.

    Attributes:
        seed: Seed of torch's CPU generator, or one for each image; None draws one and reports it.
        generator: Generators instead of `seed`: one, or one for each image, ours or torch's.
        scheduler: Takes over the config of the main scheduler, as `CommonInputs.scheduler`; None takes the pipeline's.
        cache: Forecasts of some steps of every stage, as `CommonInputs.cache`; None is off.
        output_type: "pil", "np" or "latent", which is the result of the last step.
        callback_on_step_end: Called after every step of the last stage, as `CommonInputs.callback_on_step_end`.
        callback_on_step_end_tensor_inputs: Names of its tensors: "latents".
    """

    seed: int | Sequence[int] | None = None
    generator: GeneratorInput | None = None
    scheduler: SchedulerInput | None = None
    cache: str | None = None
    output_type: str = "pil"
    callback_on_step_end: Callable[..., Any] | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)

    def check(self) -> None:
        """Refuse an unknown output type, two sources of noise, and caches that no system has.

        Raises:
            InputError: As said.
        """
        check_result(self.output_type, self.seed, self.generator)
        if self.cache is not None and parse_cache(self.cache).kind == "guidance":
            raise InputError(
                f"cache: got {self.cache!r}, expected one of another kind, such as taylor:1: this pipeline has a "
                f"guidance of its own"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StagedCall:
    """One call, checked, while its stages are made.

    Attributes:
        inputs: Of the class that `StagedPipeline.inputs_class` chose.
        common: The arguments of every system.
        images: Number of images.
        size: Height and width in pixels.
        generator: One, or one for each image; draws happen in diffusers' order.
        schedulers: Folder of a scheduler to its copy for this run.
        signal: Ends the loops early.
        step_end: The caller's own function after each step of the last stage, or None.
    """

    inputs: Any
    common: RunInputs
    images: int
    size: tuple[int, int]
    generator: Generator | Sequence[Generator]
    schedulers: Mapping[str, Scheduler[Any]]
    signal: StopSignal
    step_end: StepEnd | None

    @property
    def scheduler(self) -> Scheduler[Any]:
        """The main scheduler."""
        return list(self.schedulers.values())[-1]

    def randn(self, shape: Sequence[int]) -> FloatArray:
        """Draw normal noise, float32; diffusers: `randn_tensor`."""
        return randn_tensor(tuple(shape), self.generator).astype(np.float32)

    def start_noise(self, shape: Sequence[int], latents: FloatArray | None, name: str = "latents") -> FloatArray:
        """Return the caller's latents, or fresh noise of a shape.

        Raises:
            InputError: The caller's are of another shape.
        """
        if latents is None:
            return self.randn(shape)
        if latents.shape != tuple(shape):
            raise InputError(f"{name}: got shape {latents.shape}, expected {tuple(shape)}")
        return latents.astype(np.float32)

    def set_stage_timesteps(self, scheduler: Scheduler[Any], name: str) -> None:
        """Set the timesteps of a stage that has a number of steps of its own.

        Args:
            scheduler: Of the stage.
            name: Argument with the number, such as "prior_num_inference_steps".

        Raises:
            InputError: The scheduler does not take the number; the message names the argument.
        """
        try:
            scheduler.set_timesteps(getattr(self.inputs, name))
        except InputError as error:
            error.args = (str(error).replace("num_inference_steps", name),)
            raise

    def stops(self) -> bool:
        """Return whether a loop of the system's own ends before its next step."""
        return self.signal.cancelled or self.signal.interrupted

    def finish_step(self, index: int, timestep: float, latents: FloatArray) -> FloatArray:
        """Call the caller's own function after a step of a system's own loop; return the latents that go on."""
        return latents if self.step_end is None else self.step_end(index, timestep, latents)

    def denoise(
        self,
        predict: Predict,
        latents: FloatArray,
        *,
        scheduler: Scheduler[Any] | None = None,
        timesteps: npt.NDArray[Any] | None = None,
        eta: float = 0.0,
        after_step: AfterStep | None = None,
        scale_input: bool = True,
        ends_denoised: bool = False,
        last: bool = True,
        **arguments: Any,
    ) -> Iterator[Step]:
        """Run the common loop; see `denoising.denoise`.

        Args:
            predict: The model, guidance included.
            latents: Start, float32 (B, ...).
            scheduler: With its timesteps set; None for the main one.
            timesteps: Those that are run; None for all.
            eta: DDIM's eta.
            after_step: Changes the latents of a step before they go on, or None.
            scale_input: True if the model takes latents as `scale_model_input` scales them.
            ends_denoised: True if the last step yields the clean sample that the scheduler predicts.
            last: True for the last stage, whose steps the caller's callback gets.
            arguments: Further arguments of the scheduler's `step`, the same in every step.
        """
        chosen = self.scheduler if scheduler is None else scheduler
        run = chosen.model_timesteps if timesteps is None else timesteps
        if self.common.cache is not None:
            predict = with_cache(parse_cache(self.common.cache), predict, chosen, len(run))
        return denoise(
            chosen,
            predict,
            latents,
            run,
            self.generator,
            self.signal,
            eta,
            after_step,
            self.step_end if last else None,
            scale_input,
            ends_denoised,
            arguments=arguments,
        )
