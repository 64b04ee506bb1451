"""Steps of any length along a flow map: models distilled to jump from any timestep to any later one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample, per_image
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.flow import FlowOptions, FlowScheduler, check_lengths, shifted
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["FlowMapEulerDiscreteScheduler"]

_TOLERANCE = 1e-3
"""Largest distance at which a timestep counts as one of the schedule."""


class FlowMapEulerDiscreteScheduler(FlowScheduler[FlowOptions]):
    """x_r = x_t - (sigma_t - sigma_r) u, where u is the mean velocity between t and r that the model predicts.

    Gu et al. 2026 (AnyFlow), https://arxiv.org/abs/2605.13724. The schedule is float64, as in diffusers. A step depends
    on the arguments `timestep` and `r_timestep`, not on the step counter.
    """

    Options = FlowOptions
    custom_schedules = frozenset({"timesteps", "sigmas"})
    combines_schedules = True

    def _training_schedule(self) -> Schedule:
        return self._schedule(RunRequest(num_inference_steps=self.options.num_train_timesteps))

    def _schedule(self, request: RunRequest) -> Schedule:
        check_lengths("FlowMapEulerDiscreteScheduler", request)
        trained = self.options.num_train_timesteps
        if request.sigmas is not None:
            start = np.asarray(request.sigmas, dtype=np.float64)
        elif request.timesteps is not None:
            start = np.asarray(request.timesteps, dtype=np.float64) / trained
        else:
            start = _one_to_zero(request.steps)
        sigmas = start if self.options.shift == 1.0 else shifted(start, self.options.shift)
        return Schedule(sigmas * trained, np.append(sigmas, 0.0), len(sigmas))

    def index_for_timestep(self, timestep: float) -> int:
        """The index of the timestep nearest to the given one.

        Raises:
            InputError: none is near; diffusers returns None.
        """
        index = self._nearest(timestep)
        return super().index_for_timestep(timestep) if index is None else index

    def _nearest(self, timestep: float) -> int | None:
        distance = np.abs(self.timesteps.astype(np.float32) - np.float32(timestep))
        index = int(distance.argmin())
        return index if distance[index] <= _TOLERANCE else None

    def scale_noise(
        self, sample: Float32Array, timestep: Sequence[float] | NDArray[Any], noise: Float32Array
    ) -> Float32Array:
        """The sample at any timesteps: sigma noise + (1 - sigma) x0, sigma = t / T.

        Args:
            sample: x0, float32, (B, ...).
            timestep: (B,) or (1,).
            noise: float32, same shape as the sample.
        """
        sigma = np.asarray(timestep, dtype=np.float32) / np.float32(self.options.num_train_timesteps)
        sigma = per_image(sigma, sample.ndim)
        return sigma * noise + (np.float32(1) - sigma) * sample

    def step(
        self,
        model_output: Sample,
        timestep: float,
        sample: Sample,
        *,
        r_timestep: float | None = None,
        generator: Generator = None,  # noqa: ARG002 - the loop passes it to every scheduler
    ) -> StepResult:
        """Go from t to r.

        Args:
            model_output: u, float32, (B, ...).
            timestep: t, also outside the schedule.
            sample: x_t, same shape.
            r_timestep: r; by default the next timestep of the schedule, after the last one zero.
            generator: ignored, the method is deterministic.

        Raises:
            InputError: no r, and t is not in the schedule.
        """
        index = self._nearest(timestep)
        if self.step_index is None:
            self.step_index = self.begin_index if self.begin_index is not None else index or 0
        if r_timestep is not None:
            sigma_r = self._sigma_at(r_timestep)
        elif index is not None:
            sigma_r = self._sigma[index + 1]
        else:
            raise InputError(
                f"FlowMapEulerDiscreteScheduler.step: timestep {timestep} is not in the schedule, so that the next one "
                "is not known: pass r_timestep too, or one of `timesteps`."
            )
        self._advance()
        return StepResult(sample + (sigma_r - self._sigma_at(timestep)) * model_output)

    def _sigma_at(self, timestep: float) -> float:
        index = self._nearest(timestep)
        return self._sigma[index] if index is not None else float(timestep) / self.options.num_train_timesteps


def _one_to_zero(steps: int) -> NDArray[np.float64]:
    """`torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]`, bit for bit.

    torch walks from both ends to the middle with a fused multiply-add. Its one rounding is had here by splitting the
    increment: the products with the upper half, and their distances from one, are exact.
    """
    increment = 1.0 / steps
    index = np.arange(steps, dtype=np.float64)
    upper = float(np.float32(increment))
    falling = (1.0 - index * upper) - index * (increment - upper)
    return np.where(index < (steps + 1) // 2, falling, (steps - index) * increment)
