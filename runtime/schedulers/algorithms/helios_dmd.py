"""The few-step sampler of distilled Helios models: predict the clean sample, noise it with the stage's first sample."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import FloatArray, Generator, Sample, per_image
from diffoundry.runtime.schedulers.base import StepResult
from diffoundry.runtime.schedulers.bases.helios_stages import HeliosStageOptions, HeliosStageScheduler

__all__ = ["HeliosDMDOptions", "HeliosDMDScheduler"]


@dataclass(frozen=True, kw_only=True)
class HeliosDMDOptions(HeliosStageOptions):
    """Options of `HeliosDMDScheduler`, named as in diffusers."""

    prediction_type: Literal["flow_prediction"] = "flow_prediction"
    use_flow_sigmas: Literal[True] = True
    time_shift_type: Literal["exponential", "linear"] = "linear"


class HeliosDMDScheduler(HeliosStageScheduler[HeliosDMDOptions]):
    """Consistency-like sampling with one noise for all steps of a stage.

        x0 = x - sigma v,    x' = (1 - sigma') x0 + sigma' n

    with n the sample that the stage started from, and sigma the level whose timestep is nearest to the integer part of
    the timestep. The last step returns x0.

    Yuan et al. 2026 (Helios), https://arxiv.org/abs/2603.04379; Yin et al. 2024 (DMD2), section 4.4,
    https://arxiv.org/abs/2405.14867. diffusers: n = `dmd_noisy_tensor`.
    """

    Options = HeliosDMDOptions
    _plans_end = True

    def _reset(self) -> None:
        # for `_loop_step`: n, and how many calls there have been
        self._start: Sample | None = None
        self._calls = 0

    def step(
        self,
        model_output: Sample,
        timestep: float,
        sample: Sample,
        *,
        generator: Generator = None,  # noqa: ARG002 - the loop passes it to every scheduler
        cur_sampling_step: int = 0,
        dmd_noisy_tensor: Sample | None = None,
        dmd_sigmas: NDArray[Any] | None = None,
        dmd_timesteps: NDArray[Any] | None = None,
        all_timesteps: NDArray[Any] | None = None,
    ) -> StepResult:
        """Go to the next timestep.

        Args:
            model_output: v, float32, (B, C, F, H, W).
            timestep: one of `timesteps`.
            sample: x, same shape.
            generator: not used.
            cur_sampling_step: how many steps of the stage were taken before.
            dmd_noisy_tensor: n, same shape; not needed in the last step.
            dmd_sigmas: levels to look sigma up in, (N,) or more; by default `sigmas`.
            dmd_timesteps: their timesteps, (N,); by default `timesteps`.
            all_timesteps: timesteps of the stage's steps; by default `timesteps`.

        Raises:
            InputError: n is missing.
        """
        sigmas = self.sigmas if dmd_sigmas is None else np.asarray(dmd_sigmas)
        timesteps = self.timesteps if dmd_timesteps is None else np.asarray(dmd_timesteps)
        steps = self.timesteps if all_timesteps is None else np.asarray(all_timesteps)
        x0 = sample - _level(timestep, sigmas, timesteps) * model_output
        if cur_sampling_step >= len(steps) - 1:
            return StepResult(x0)
        if dmd_noisy_tensor is None:
            raise InputError(
                "HeliosDMDScheduler.step: dmd_noisy_tensor is None, expected the sample that the stage started from: "
                f"step {cur_sampling_step} of {len(steps)} is not the last."
            )
        sigma = _level(steps[cur_sampling_step + 1], sigmas, timesteps)
        return StepResult((1.0 - sigma) * x0 + sigma * dmd_noisy_tensor)

    def _loop_step(
        self, model_output: Sample, timestep: Any, sample: Sample, *, generator: Generator, **arguments: Any
    ) -> StepResult:
        """`step` with the first sample of the run as n."""
        start = sample if self._start is None else self._start
        result = self.step(
            model_output,
            timestep,
            sample,
            generator=generator,
            cur_sampling_step=self._calls,
            dmd_noisy_tensor=start,
            **arguments,
        )
        self._start, self._calls = start, self._calls + 1
        return result

    def add_noise(  # type: ignore[override]  # diffusers' own arguments
        self,
        original_samples: FloatArray,
        noise: FloatArray,
        timestep: NDArray[Any],
        sigmas: NDArray[Any],
        timesteps: NDArray[Any],
    ) -> FloatArray:
        """The sample at given timesteps: (1 - sigma) x0 + sigma noise.

        Args:
            original_samples: x0, float32, (B, ...).
            noise: float32, same shape.
            timestep: (B,), of which the integer parts count.
            sigmas: levels to look sigma up in, (N,) or more.
            timesteps: their timesteps, (N,).
        """
        levels = [_level(t, sigmas, timesteps) for t in np.asarray(timestep).reshape(-1)]
        sigma = per_image(np.array(levels, dtype=noise.dtype), noise.ndim)
        noisy: FloatArray = (1 - sigma) * original_samples + sigma * noise
        return noisy


def _level(timestep: float, sigmas: NDArray[Any], timesteps: NDArray[Any]) -> float:
    """The sigma whose timestep is nearest to the integer part of a timestep; of two equally near the first."""
    return float(sigmas[int(np.abs(timesteps - int(timestep)).argmin())])
