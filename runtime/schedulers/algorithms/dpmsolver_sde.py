"""DPM-Solver++ for the SDE, singlestep of second order, with noise from a Brownian path."""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample
from diffoundry.runtime.schedulers.arithmetic.brownian import BrownianNoise, path_seed
from diffoundry.runtime.schedulers.arithmetic.sigmas import placed_sigmas, sigma_to_timestep
from diffoundry.runtime.schedulers.arithmetic.spacing import spaced_timesteps
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.respaced_sigmas import RespacedSigmaScheduler
from diffoundry.runtime.schedulers.bases.spaced_sigmas import SpacedSigmaOptions
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.options import SigmaSchedule
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["DPMSolverSDEOptions", "DPMSolverSDEScheduler"]


@dataclass(frozen=True, kw_only=True)
class DPMSolverSDEOptions(SpacedSigmaOptions):
    """Options of `DPMSolverSDEScheduler`, named as in diffusers."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    noise_sampler_seed: int | None = None


class _Levels(NamedTuple):
    """The noise levels of one step: its start, the geometric mean, its end."""

    start: float
    middle: float
    end: float


class DPMSolverSDEScheduler(RespacedSigmaScheduler[DPMSolverSDEOptions]):
    """Two model calls for each step from sigma to sigma', over the middle m = sqrt(sigma sigma'); the last has one.

        x1 = r x + (1 - r) x0(x, sigma) + up z,     up and r for the target m
        x' = r x + (1 - r) x0(x1, m) + up z',       up and r for the target sigma'
        up = min(to, sqrt(to^2 (sigma^2 - to^2) / sigma^2)),    r = sqrt(to^2 - up^2) / sigma

    and x' = x0 where sigma' is zero. z and z' are increments of one Brownian path over [sigma_min, sigma_max], from
    sigma to m and from sigma to sigma'.

    Lu et al. 2022, section 5, https://arxiv.org/abs/2211.01095, as `sample_dpmpp_sde` of k-diffusion. diffusers:
    m = `mid_point_sigma`, x = `self.sample` in the second call, r sigma = `sigma_down`. The path's seed is
    `noise_sampler_seed`; without one diffusers takes an arbitrary seed, here it is the generator's if there is one.
    Float32 samples ask the path at levels that went through float32 logarithms, as in diffusers: its last bits decide
    which millionth they are rounded to.
    """

    Options = DPMSolverSDEOptions
    order = 2
    compatible_names = KARRAS_COMPATIBLES
    karras_between_own_ends = True

    def _plan(self, request: RunRequest, train_steps: int) -> Schedule:
        options, trained, steps = self.options, self._training_sigmas, request.steps
        spacing, offset = options.timestep_spacing, options.steps_offset
        timesteps: NDArray[np.floating[Any]] = spaced_timesteps(
            spacing, steps=steps, train_steps=train_steps, offset=offset
        )
        levels = np.interp(timesteps, np.arange(len(trained)), trained)
        if options.sigma_schedule is not SigmaSchedule.TRAINED:
            low, high = self._ends(options.sigma_schedule, levels[-1].item(), levels[0].item())
            levels = placed_sigmas(options.sigma_schedule, low, high, steps)
            timesteps = sigma_to_timestep(levels, self._log_training_sigmas)
        logs = -np.log(levels)
        middles = np.exp(-(logs[:-1] + np.diff(logs) * 0.5))
        calls = np.empty(2 * len(timesteps) - 1)
        calls[::2] = timesteps
        calls[1::2] = sigma_to_timestep(middles, self._log_training_sigmas)
        single = np.append(levels, 0.0).astype(np.float32)
        return Schedule(calls, np.concatenate([single[:1], single[1:-1].repeat(2), single[-1:]]), steps)

    def _reset(self) -> None:
        self._noise: BrownianNoise | None = None
        self._held: Sample | None = None  # x, between the two calls of a step

    def _step_levels(self, i: int, dtype: DTypeLike) -> _Levels:
        """The levels of the step that call i belongs to, by way of logarithms in a dtype."""
        first = i if self._held is None else i - 1
        sigma, following = self._sigma[first], self._sigma[first + 1]
        if following == 0.0:
            return _Levels(sigma, 0.0, 0.0)
        pair = np.array([sigma, following])
        if dtype == np.float32:
            start, end = -float32.log(pair.astype(np.float32))
            logs = np.array([start, start + (end - start) * np.float32(0.5), end], dtype=np.float32)
            return _Levels(*float32.exp(-logs).tolist())
        return _Levels(sigma, math.sqrt(sigma * following), following)

    def scale_model_input(self, sample: Sample, timestep: float | None = None) -> Sample:
        """The sample divided by sqrt(sigma^2 + 1), at the level of the first or the second call."""
        i = self._index(timestep)
        sigma = self._sigma[i] if self._held is None else self._step_levels(i, sample.dtype).middle
        return sample * (1.0 / math.sqrt(sigma * sigma + 1.0))

    def step(
        self,
        model_output: Sample,
        timestep: float,
        sample: Sample,
        *,
        s_noise: float = 1.0,
        generator: Generator = None,
    ) -> StepResult:
        """The first or the second half of a step, in turns.

        Args:
            model_output: float32, (B, C, H, W), for the input from `scale_model_input`.
            timestep: one of `timesteps`, in their order.
            sample: x or x1, same shape.
            s_noise: scale of the noise.
            generator: whose seed is that of the path, where the options name none; read at the first call of a run.

        Raises:
            InputError: the first timestep of a run that is not in the schedule, or the run is over.
        """
        i = self._index(timestep)
        if self._noise is None:
            seed = self.options.noise_sampler_seed
            levels = [sigma for sigma in self._sigma if sigma > 0.0]
            path = path_seed(generator) if seed is None else seed
            self._noise = BrownianNoise(sample.shape, min(levels), max(levels), path)
        levels_here = self._step_levels(i, sample.dtype)
        first = self._held is None
        seen = self._sigma[i] if first else levels_here.middle
        x0 = self._denoised(model_output, sample, seen)
        self._advance()
        if levels_here.end == 0.0:
            return StepResult(x0, x0)

        start, to = levels_here.start, levels_here.middle if first else levels_here.end
        up = min(to, to * math.sqrt(max(0.0, start * start - to * to)) / start)
        share = math.sqrt(max(0.0, to * to - up * up)) / start
        origin = sample if self._held is None else self._held
        noise = self._noise(start, to, sample)
        following = share * origin + (1.0 - share) * x0 + (s_noise * up) * noise
        self._held = sample if first else None
        return StepResult(following, x0)
