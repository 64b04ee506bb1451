"""Latent consistency sampling for flow matching: predict the image, noise it again, optionally at a larger size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample, noise_like
from diffoundry.runtime.schedulers.arithmetic.resampling import resample
from diffoundry.runtime.schedulers.base import StepResult
from diffoundry.runtime.schedulers.bases.flow import ShiftedFlowOptions, ShiftedFlowScheduler

__all__ = ["FlowMatchLCMOptions", "FlowMatchLCMScheduler"]


@dataclass(frozen=True, kw_only=True)
class FlowMatchLCMOptions(ShiftedFlowOptions):
    """Options of `FlowMatchLCMScheduler`, named as in diffusers."""

    scale_factors: Sequence[float] | None = None
    upscale_mode: Literal["nearest", "linear", "bilinear", "bicubic", "trilinear", "area", "nearest-exact"] = "bicubic"


class FlowMatchLCMScheduler(ShiftedFlowScheduler[FlowMatchLCMOptions]):
    """x' = (1 - sigma') x0 + sigma' z with x0 = x - sigma v, resized to the next scale where there are several.

    Luo et al. 2023, Algorithm 1, https://arxiv.org/abs/2310.04378, in flow matching's noise levels; the scales are
    those of scale-wise distillation (Starodubcev et al. 2025, https://arxiv.org/abs/2503.16397).
    """

    Options = FlowMatchLCMOptions

    def _prepare(self) -> None:
        super()._prepare()
        self.set_scale_factors(self.options.scale_factors, self.options.upscale_mode)

    def set_scale_factors(self, scale_factors: Sequence[float] | None, upscale_mode: str) -> None:
        """Change the sizes of the runs to come.

        Args:
            scale_factors: after each step but the last, the size over that of the first; None keeps the size.
            upscale_mode: how to resize, as `torch.nn.functional.interpolate` calls it.
        """
        self._scale_factors = list(scale_factors or ())
        self._upscale_mode = upscale_mode

    def _reset(self) -> None:
        self._first_size: tuple[int, ...] | None = None

    def step(self, model_output: Sample, timestep: float, sample: Sample, *, generator: Generator = None) -> StepResult:
        """Go from sigma to the next sigma', and to the next size.

        Args:
            model_output: v, float32, (B, C, ...).
            timestep: one of `timesteps`.
            sample: x, same shape.
            generator: source of z, drawn at every step, also the last.

        Raises:
            InputError: an integer timestep, the first one of a run that is not in the schedule, or more or fewer
                scale factors than steps between models calls.
        """
        self._refuse_integer(timestep)
        i = self._index(timestep)
        sigma, sigma_next = self._sigma[i], self._sigma[i + 1]
        x0 = sample - sigma * model_output
        if self._scale_factors:
            x0 = self._resized(x0, i)
        following = (1.0 - sigma_next) * x0 + sigma_next * noise_like(x0, generator)
        self._advance()
        return StepResult(following)

    def _resized(self, x0: Sample, i: int) -> Sample:
        factors = self._scale_factors
        if len(factors) + 1 != len(self.timesteps):
            raise InputError(
                f"FlowMatchLCMScheduler.step: 'scale_factors' has {len(factors)} values for {len(self.timesteps)} "
                "timesteps, expected one fewer than timesteps."
            )
        if self._first_size is None:
            self._first_size = x0.shape[2:]
        if i >= len(factors):
            return x0
        return resample(x0, [round(factors[i] * length) for length in self._first_size], self._upscale_mode)
