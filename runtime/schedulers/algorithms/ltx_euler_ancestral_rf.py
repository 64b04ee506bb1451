"""Ancestral Euler steps on the straight paths of flow matching, as ComfyUI takes them for LTX-Video."""

import math
from dataclasses import dataclass

import numpy as np

from diffoundry.runtime.schedulers.algorithms.flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample, noise_like
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.flow import StraightPathScheduler
from diffoundry.runtime.schedulers.options import TrainingOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["LTXEulerAncestralRFOptions", "LTXEulerAncestralRFScheduler"]


@dataclass(frozen=True, kw_only=True)
class LTXEulerAncestralRFOptions(TrainingOptions):
    """Options of `LTXEulerAncestralRFScheduler`, named as in diffusers."""

    eta: float = 1.0
    s_noise: float = 1.0


class LTXEulerAncestralRFScheduler(StraightPathScheduler[LTXEulerAncestralRFOptions]):
    """An Euler step to sigma_down, below the next sigma', then noise up to sigma'.

        sigma_down = sigma' (1 + (sigma' / sigma - 1) eta)
        x_down = x + (sigma_down - sigma) v
        x' = a x_down + S_noise sqrt(sigma'^2 - a^2 sigma_down^2) z,    a = (1 - sigma') / (1 - sigma_down)

    The factor a brings the image's scale from 1 - sigma_down to 1 - sigma'. ComfyUI, `sample_euler_ancestral_RF`.
    diffusers: a = `alpha_ip1 / alpha_down`.

    The schedule is that of `FlowMatchEulerDiscreteScheduler`, with the options of such a scheduler that this one's
    config carries along; or given, as sigmas with their final zero. `timesteps` then has the final zero too, and a step
    there changes nothing. A list given as timesteps is taken as sigmas.
    """

    Options = LTXEulerAncestralRFOptions
    compatible_names = ("FlowMatchEulerDiscreteScheduler",)
    custom_schedules = frozenset({"timesteps", "sigmas", "mu"})
    combines_schedules = True

    def _prepare(self) -> None:
        self._flow = FlowMatchEulerDiscreteScheduler.from_config(self.config)

    def _training_schedule(self) -> Schedule:
        return Schedule(self._flow.timesteps, self._flow.sigmas, None)

    def _schedule(self, request: RunRequest) -> Schedule:
        given = request.sigmas if request.sigmas is not None else request.timesteps
        if given is not None:
            sigmas = np.asarray(given, dtype=np.float32)
            return Schedule(sigmas * self.options.num_train_timesteps, sigmas, len(sigmas) - 1)
        flow = self._flow.copy()
        flow.set_timesteps(request.num_inference_steps, mu=request.mu)
        return Schedule(flow.timesteps, flow.sigmas, flow.num_inference_steps)

    def step(self, model_output: Sample, timestep: float, sample: Sample, *, generator: Generator = None) -> StepResult:
        """Go from sigma to the next sigma'.

        Args:
            model_output: v, float32, (B, ...).
            timestep: one of `timesteps`.
            sample: x, same shape.
            generator: source of z.

        Raises:
            InputError: no run is planned, an integer timestep, or the first one of a run that is not in the schedule.
        """
        self._require_run()
        self._refuse_integer(timestep)
        i = self._index(timestep)
        self._advance()
        if i + 1 >= len(self._sigma):
            return StepResult(sample)
        sigma, sigma_next = self._sigma[i], self._sigma[i + 1]
        if abs(sigma_next) < 1e-8:
            return StepResult(sample - sigma * model_output)

        eta, s_noise = self.options.eta, self.options.s_noise
        down = sigma_next * (1.0 + (sigma_next / sigma - 1.0) * eta)
        following = sample + (down - sigma) * model_output
        if eta > 0.0 and s_noise > 0.0:
            a = (1.0 - sigma_next) / (1.0 - down + 1e-12)
            up = math.sqrt(max(0.0, sigma_next**2 - a * a * down**2))
            following = a * following + (s_noise * up) * noise_like(sample, generator)
        return StepResult(following)
