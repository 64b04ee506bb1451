"""pi-Flow: the model gives a policy for a stretch of time, which is followed in many small steps without it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import FloatArray, Generator
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.indexed import IndexedScheduler
from diffoundry.runtime.schedulers.options import TrainingOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["PiflowOptions", "PiflowScheduler"]


@dataclass(frozen=True, kw_only=True)
class PiflowOptions(TrainingOptions):
    """Options of `PiflowScheduler`, named as in diffusers."""

    shift: float = 5.0
    n_grid: int = 10
    eps: float = 1e-6
    final_step_size_scale: float = 0.5
    num_policy_substeps: int = 128

    def check(self, owner: str) -> None:
        """Refuse a grid of one, and steps of no or of too much time."""
        super().check(owner)
        for name, least in (("n_grid", 2), ("num_policy_substeps", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{owner}: option '{name}' is {getattr(self, name)}, expected at least {least}.")
        if self.eps <= 0:
            raise ConfigError(f"{owner}: option 'eps' is {self.eps}, expected more than 0.")
        if not 0 < self.final_step_size_scale <= 1:
            raise ConfigError(
                f"{owner}: option 'final_step_size_scale' is {self.final_step_size_scale}, expected more than 0 and at "
                "most 1."
            )


class PiflowScheduler(IndexedScheduler[PiflowOptions]):
    """Rollout of the "DX" policy: the clean sample is predicted on a grid of times between this one and the next.

        x0_m = x - sigma v_m,    v_m = the model's outputs, m = 1 .. n
        x_{k+1} = x_k + (sigma_{k+1} - sigma_k) (x_k - x0(t_k)) / sigma_k,    x0(t) linear between the x0_m

    where the substeps t_k are even in raw time t, and sigma = s t / (1 + (s - 1) t) is that time shifted by s =
    `shift`. All of it is linear in x and v, and the coefficients of x add up to one, so that a whole rollout is

        x' = x - sigma sum_m g_m v_m

    with weights g computed beforehand. Chen et al. 2025 (pi-Flow), https://arxiv.org/abs/2510.14974.
    diffusers: `DXPolicy`, `policy_rollout_fm`, t = `raw_t`; it rolls out in float32, here the weights are float64.
    """

    Options = PiflowOptions
    made_for = "flow-matching models with the policy of pi-Flow"

    def output_channels(self, channels: int) -> tuple[int, ...]:
        """Return the accepted number of output channels: one set of velocities for each place of the grid."""
        return (channels * self.options.n_grid,)

    def _training_schedule(self) -> Schedule:
        # nothing is planned, and there are no training steps to list
        empty = np.empty(0, dtype=np.float32)
        return Schedule(empty, empty, None)

    def _schedule(self, request: RunRequest) -> Schedule:
        steps = request.steps
        sigmas = self._shifted(self._raw_times(steps))
        # Python's float keeps the product in float32, as torch's scalars do
        return Schedule(sigmas * float(self.options.num_train_timesteps), np.append(sigmas, np.float32(0)), steps)

    def _reset(self) -> None:
        self._raw: list[float] = self._raw_times(self.num_inference_steps).tolist() if self.num_inference_steps else []

    def _raw_times(self, steps: int) -> NDArray[np.float32]:
        """The times of the model calls before the shift, from 1 down; the last stretch is shorter or as long."""
        segment = 1.0 / (steps - (1.0 - self.options.final_step_size_scale))
        return np.float32(1) - np.arange(steps, dtype=np.float32) * segment

    def _shifted(self, time: FloatArray) -> FloatArray:
        shift = self.options.shift
        sigma: FloatArray = shift * time / (1 + (shift - 1) * time)
        return sigma

    def step(
        self,
        model_output: FloatArray,
        timestep: float,
        sample: FloatArray,
        *,
        generator: Generator = None,  # noqa: ARG002 - the loop passes it to every scheduler
    ) -> StepResult:
        """Go to the next timestep.

        Args:
            model_output: v_1 .. v_n after each other in the last axis, float32, (B, ..., n C).
            timestep: one of `timesteps`.
            sample: x, (B, ..., C).
            generator: not used.

        Raises:
            InputError: an integer timestep, the first one of a run that is not in the schedule, a call after the last
                one, or an output of another shape.
        """
        self._refuse_integer(timestep)
        grid = self.options.n_grid
        channels = sample.shape[-1]
        if model_output.shape != (*sample.shape[:-1], grid * channels):
            raise InputError(
                f"PiflowScheduler.step: model output has shape {model_output.shape}, expected "
                f"{(*sample.shape[:-1], grid * channels)}: that of the sample with n_grid = {grid} times the channels."
            )
        i = self._index(timestep)
        weights = (-self._sigma[i] * self._grid_weights(i)).astype(model_output.dtype)
        following = sample + weights @ model_output.reshape(*sample.shape[:-1], grid, channels)
        self._advance()
        return StepResult(following)

    def _grid_weights(self, i: int) -> NDArray[np.float64]:
        """The weights g of step i, (n,)."""
        options, start = self.options, self._raw[i]
        end = self._raw[i + 1] if i + 1 < len(self._raw) else options.eps
        substeps = max(1, round((start - end) * options.num_policy_substeps))
        times = np.maximum(np.linspace(start, end, substeps + 1), 0.0)
        sigmas = self._shifted(times)
        # each substep keeps 1 - d of x and takes d of x0
        d = (sigmas[:-1] - sigmas[1:]) / np.maximum(sigmas[:-1], options.eps)
        kept_later = np.append(np.cumprod((1.0 - d)[::-1])[::-1][1:], 1.0)

        # the grid spans the stretch, from its end to its start
        place = np.clip((times[:-1] - end) / max(start - end, options.eps), 0.0, 1.0) * (options.n_grid - 1)
        below = np.minimum(place.astype(np.int64), options.n_grid - 2)
        weights = np.zeros(options.n_grid)
        np.add.at(weights, below, d * kept_later * (below + 1 - place))
        np.add.at(weights, below + 1, d * kept_later * (place - below))
        return weights
