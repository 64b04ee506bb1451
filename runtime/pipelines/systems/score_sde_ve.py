"""Score-based generation by a variance-exploding stochastic differential equation, without a prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import announced
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.unet_2d import UNet2DModel
from diffoundry.runtime.pipelines.denoising import Step
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.schedulers.algorithms.sde_ve import ScoreSdeVeScheduler

__all__ = ["ScoreSdeVe", "ScoreSdeVeInputs"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScoreSdeVeInputs:
    """The arguments of diffusers' `ScoreSdeVePipeline`.

    Attributes:
        batch_size: Number of images.
        num_inference_steps: Predictor steps; before each come the scheduler's `correct_steps` corrections.
        latents: Start noise, float32 (B, C, height, width), before it is scaled, instead of drawing it.
    """

    batch_size: int = 1
    num_inference_steps: int = 2000
    latents: FloatArray | None = None

    def check(self) -> None:
        """Nothing more to check."""


class ScoreSdeVe(StagedPipeline):
    """diffusers: `ScoreSdeVePipeline`. Every correction and every prediction is a step.

    Images are the last prediction before its noise, in 0..1.

    Song et al. 2020, Algorithms 2 and 4, https://arxiv.org/abs/2011.13456.
    """

    Inputs: ClassVar[type[Any]] = ScoreSdeVeInputs
    label: ClassVar[str] = "unconditional images"
    own_loop: ClassVar[bool] = True
    only_scheduler: ClassVar[str | None] = "ScoreSdeVeScheduler"

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.unet = self.denoiser = UNet2DModel(session)
        self.unet.refuse_classes()

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        scheduler, steps = self.require_scheduler(call.scheduler, ScoreSdeVeScheduler), call.inputs.num_inference_steps
        scheduler.set_timesteps(steps)
        scheduler.set_sigmas(steps)
        total = len(scheduler.timesteps) * (scheduler.options.correct_steps + 1)
        return [Stage(name="denoising", total=total, run=lambda _: self._run(call, scheduler, total))]

    def _run(self, call: StagedCall, scheduler: ScoreSdeVeScheduler, total: int) -> Iterator[Step]:
        """Correct and predict at every noise level."""
        shape = self.unet.latent_shape(call.images, *call.size)
        sample = call.start_noise(shape, call.inputs.latents) * np.float32(scheduler.init_noise_sigma)
        corrections, index = scheduler.options.correct_steps, 0
        assert scheduler.sigmas is not None, "set_sigmas makes them"
        for timestep, sigma in zip(scheduler.timesteps, announced(scheduler.sigmas), strict=True):
            for turn in range(corrections + 1):
                if call.stops():
                    return
                score, mean = self.unet(sample, float(sigma), {}), None
                if turn < corrections:
                    sample = scheduler.step_correct(score, sample, generator=call.generator).prev_sample
                else:
                    sample, mean = scheduler.step_pred(score, timestep, sample, generator=call.generator)
                latents = call.finish_step(index, float(timestep), sample)
                sample, mean = latents, mean if latents is sample else None
                yield Step(index=index, total=total, timestep=float(timestep), latents=sample, result=mean)
                index += 1

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`: pixels from 0..1."""
        return postprocess(latents if output_type == "latent" else latents * 2 - 1, output_type)
