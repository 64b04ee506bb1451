"""Unconditional generation with the stochastic sampler of Karras et al. 2022."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import announced
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.unet_2d import UNet2DModel
from diffoundry.runtime.pipelines.denoising import Step
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.schedulers.algorithms.karras_ve import KarrasVeScheduler

__all__ = ["KarrasVe", "KarrasVeInputs"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KarrasVeInputs:
    """The arguments of diffusers' `KarrasVePipeline`.

    Attributes:
        batch_size: Number of images.
        num_inference_steps: Noise levels, at least 2. Each but the last has a step and its correction.
        latents: Start noise, float32 (B, C, height, width), before it is scaled, instead of drawing it.
    """

    batch_size: int = 1
    num_inference_steps: int = 50
    latents: FloatArray | None = None

    def check(self) -> None:
        """Nothing more to check."""


class KarrasVe(StagedPipeline):
    """diffusers: `KarrasVePipeline`. Euler's step and Heun's correction of it are a step each.

    The network was trained on another schedule, so that its input is (x + 1) / 2 and its output F is scaled.

    Karras et al. 2022, Algorithm 2 and equation 213, https://arxiv.org/abs/2206.00364.
    """

    Inputs: ClassVar[type[Any]] = KarrasVeInputs
    label: ClassVar[str] = "unconditional images"
    own_loop: ClassVar[bool] = True
    only_scheduler: ClassVar[str | None] = "KarrasVeScheduler"

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.unet = self.denoiser = UNet2DModel(session)
        self.unet.refuse_classes()

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        scheduler = self.require_scheduler(call.scheduler, KarrasVeScheduler)
        scheduler.set_timesteps(call.inputs.num_inference_steps)
        total = 2 * len(scheduler.timesteps) - 1
        return [Stage(name="denoising", total=total, run=lambda _: self._run(call, scheduler, total))]

    def _run(self, call: StagedCall, scheduler: KarrasVeScheduler, total: int) -> Iterator[Step]:
        """Go from each noise level to the next lower one, and correct that."""
        shape = self.unet.latent_shape(call.images, *call.size)
        sample = call.start_noise(shape, call.inputs.latents) * np.float32(scheduler.init_noise_sigma)
        index = 0
        announced(_network_times(scheduler))
        for place in scheduler.timesteps:
            if call.stops():
                return
            sigma, following = float(scheduler.schedule[place]), float(scheduler.schedule[place - 1]) if place else 0.0
            hat, raised = scheduler.add_noise_to_input(sample, sigma, generator=call.generator)
            result = scheduler.step(self._predict(hat, raised), raised, following, hat)
            sample = call.finish_step(index, raised, result.prev_sample)
            yield Step(index=index, total=total, timestep=raised, latents=sample)
            index += 1
            if not following:
                continue
            if call.stops():
                return
            output = self._predict(sample, following)
            result = scheduler.step_correct(output, raised, following, hat, sample, result.derivative)
            sample = call.finish_step(index, following, result.prev_sample)
            yield Step(index=index, total=total, timestep=following, latents=sample)
            index += 1

    def _predict(self, sample: FloatArray, sigma: float) -> FloatArray:
        """Return F at a noise level."""
        half = _network_time(sigma)
        output: FloatArray = half * self.unet(((sample + 1) / 2).astype(np.float32), float(half), {})
        return output

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`: pixels from -1..1."""
        return postprocess(latents, output_type)


def _network_time(sigma: float) -> np.float32:
    """Return a noise level as the network was trained to know it."""
    return np.float32(sigma / 2)


def _network_times(scheduler: KarrasVeScheduler) -> npt.NDArray[np.float32]:
    """Return `_network_time` of all levels of a run, (2 N,): the raised one, then the next that is corrected."""
    levels = [float(scheduler.schedule[place]) for place in scheduler.timesteps]
    pairs = zip(map(scheduler.raised_level, levels), [*levels[1:], levels[-1]], strict=True)
    return np.array([_network_time(level) for pair in pairs for level in pair], np.float32)
