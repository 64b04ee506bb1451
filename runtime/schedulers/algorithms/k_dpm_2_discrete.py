"""DPM-Solver-2 in noise levels: the derivative is taken in the middle of a step, as k-diffusion does it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample, noise_like
from diffoundry.runtime.schedulers.arithmetic.sigmas import sigma_to_timestep
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.respaced_sigmas import RespacedSigmaScheduler
from diffoundry.runtime.schedulers.bases.spaced_sigmas import SpacedSigmaOptions
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.options import SigmaSchedule
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["Intervals", "KDPM2DiscreteScheduler", "KDPM2Options", "KDPM2Scheduler", "log_middle"]


@dataclass(frozen=True, kw_only=True)
class KDPM2Options(SpacedSigmaOptions):
    """Options of `KDPM2DiscreteScheduler` and `KDPM2AncestralDiscreteScheduler`, named as in diffusers."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"


class Intervals(NamedTuple):
    """The steps of a run, float32, (N,) each.

    Attributes:
        middle: noise level of the second model call; zero in the last step, which has none.
        target: noise level that the step leads to before noise is added.
        added: standard deviation of the noise that is added; None where none is ever drawn.
    """

    middle: Float32Array
    target: Float32Array
    added: Float32Array | None


K = TypeVar("K", bound=KDPM2Options)


class KDPM2Scheduler(RespacedSigmaScheduler[K]):
    """Two model calls for each step from sigma over the middle m to the target; the last step has one, to zero.

        x1 = x + (m - sigma) (x - x0(x, sigma)) / sigma
        x' = x + (target - sigma) (x1 - x0(x1, m)) / m + added z

    Lu et al. 2022, Algorithm 1, https://arxiv.org/abs/2206.00927, in the sample's scale of Karras et al. 2022, whose
    Algorithm 3 with alpha = 1/2 it resembles, https://arxiv.org/abs/2206.00364. A subclass writes `_intervals`.
    """

    Options: type[K]
    order = 2
    compatible_names = KARRAS_COMPATIBLES

    def _intervals(self, levels: Float32Array) -> Intervals:
        """The steps between noise levels, float32, (N + 1,), the last of them zero."""
        raise NotImplementedError

    def _plan(self, request: RunRequest, train_steps: int) -> Schedule:
        timesteps, placed = self._levels(request, train_steps)
        if self.options.sigma_schedule is SigmaSchedule.KARRAS:
            timesteps = timesteps.round()
        levels = np.append(placed, 0.0).astype(np.float32)
        middles = self._intervals(levels).middle[:-1]
        calls = np.empty(2 * len(timesteps) - 1, dtype=timesteps.dtype)
        calls[::2] = timesteps
        calls[1::2] = sigma_to_timestep(middles, self._log_training_sigmas, dtype=np.float32)
        # the zeros are one more than a run needs, as in diffusers
        sigmas = np.concatenate([levels[:1], levels[1:].repeat(2), levels[-1:]])
        return Schedule(calls, sigmas, request.num_inference_steps)

    def _reset(self) -> None:
        levels = np.append(self.sigmas[:1], self.sigmas[1:-1:2])
        middle, target, added = self._intervals(levels)
        self._level: list[float] = levels.tolist()
        self._middle: list[float] = middle.tolist()
        self._target: list[float] = target.tolist()
        self._added: list[float] | None = None if added is None else added.tolist()
        # x between the two calls
        self._held: Sample | None = None

    def _interval(self, timestep: float | None) -> int:
        """Number of the current step. Step k starts at index 2 k."""
        i = self._index(timestep)
        return (i + 1) // 2 if self._held is None else i // 2

    def scale_model_input(self, sample: Sample, timestep: float | None = None) -> Sample:
        """The sample divided by sqrt(sigma^2 + 1), at the level of the first or the second call."""
        k = self._interval(timestep)
        sigma = self._level[k] if self._held is None else self._middle[k]
        return sample * float((sigma * sigma + 1.0) ** -0.5)

    def step(self, model_output: Sample, timestep: float, sample: Sample, *, generator: Generator = None) -> StepResult:
        """The first or the second half of a step, in turns.

        Args:
            model_output: float32, (B, C, H, W), for the input from `scale_model_input`.
            timestep: one of `timesteps`, in their order.
            sample: x or x1, same shape.
            generator: source of z, where noise is added.

        Raises:
            InputError: the first timestep of a run that is not in the schedule.
        """
        k = self._interval(timestep)
        self._advance()
        sigma, middle = self._level[k], self._middle[k]
        if self._held is None:
            self._held = sample
            x0 = self._denoised(model_output, sample, sigma)
            return StepResult(x0 + (middle / sigma) * (sample - x0), x0)
        x0 = self._denoised(model_output, sample, middle)
        following = self._held + ((self._target[k] - sigma) / middle) * (sample - x0)
        if self._added is not None:
            following = following + self._added[k] * noise_like(model_output, generator)
        self._held = None
        return StepResult(following, x0)


class KDPM2DiscreteScheduler(KDPM2Scheduler[KDPM2Options]):
    """DPM-Solver-2: the middle of a step is that of the logarithms, the target the next noise level.

    diffusers: m = `sigmas_interpol`.
    """

    Options = KDPM2Options

    def _intervals(self, levels: Float32Array) -> Intervals:
        return Intervals(log_middle(levels[1:], levels[:-1]), levels[1:], None)


def log_middle(start: Float32Array, end: Float32Array) -> Float32Array:
    """The geometric mean by way of float32 logarithms, `start.log().lerp(end.log(), 0.5).exp()`; of zero it is zero."""
    first, last = float32.log(start), float32.log(end)
    return float32.exp(last - (last - first) * np.float32(0.5))
