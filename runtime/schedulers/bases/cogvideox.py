"""The base of CogVideoX's schedulers: DDIM's timesteps over alpha_bar with a shifted signal-to-noise ratio."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffoundry.runtime.schedulers.arithmetic.arrays import FloatArray
from diffoundry.runtime.schedulers.arithmetic.betas import alphas_cumprod, ending_at_zero, make_betas
from diffoundry.runtime.schedulers.arithmetic.spacing import Spacing, spaced_timesteps
from diffoundry.runtime.schedulers.base import Schedule
from diffoundry.runtime.schedulers.bases.discrete import DiscreteScheduler
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.options import BetaOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["CogVideoXOptions", "CogVideoXScheduler"]


@dataclass(frozen=True, kw_only=True)
class CogVideoXOptions(BetaOptions):
    """Options of CogVideoX's schedulers, named as in diffusers, which reads the three about clipping but never uses
    them.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    clip_sample: bool = True
    set_alpha_to_one: bool = True
    steps_offset: int = 0
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    clip_sample_range: float = 1.0
    sample_max_value: float | None = 1.0
    timestep_spacing: Spacing = "leading"
    rescale_betas_zero_snr: bool = False
    snr_shift_scale: float = 3.0


class CogVideoXScheduler(DiscreteScheduler[CogVideoXOptions]):
    """A scheduler over a = alpha_bar / (c + (1 - c) alpha_bar): its signal-to-noise ratio is divided by c.

    Yang et al. 2024 (CogVideoX), https://arxiv.org/abs/2408.06072, with the shift of Hoogeboom et al. 2023 (simple
    diffusion), https://arxiv.org/abs/2301.11093. diffusers: c = `snr_shift_scale`.
    """

    Options = CogVideoXOptions
    compatible_names = KARRAS_COMPATIBLES

    def _prepare(self) -> None:
        options, shift = self.options, self.options.snr_shift_scale
        alpha_bar: FloatArray = self._trained_alpha_bar()
        alpha_bar = alpha_bar / (shift + (1 - shift) * alpha_bar)
        if options.rescale_betas_zero_snr:
            alpha_bar = ending_at_zero(alpha_bar)
        self.alphas_cumprod = alpha_bar.astype(np.float32)
        self._alpha_bar = alpha_bar.tolist()
        # a of the end of the run, which has no timestep
        self._final_alpha_bar = 1.0 if options.set_alpha_to_one else self._alpha_bar[0]

    def _trained_alpha_bar(self) -> FloatArray:
        """The alpha_bar before the shift, float32, or float64 for "scaled_linear", as in diffusers."""
        options = self.options
        if options.beta_schedule == "scaled_linear" and options.trained_betas is None:
            betas = np.linspace(options.beta_start**0.5, options.beta_end**0.5, options.num_train_timesteps) ** 2
            self.betas = betas.astype(np.float32)
            return np.cumprod(1.0 - betas)
        self.betas = make_betas(
            options.beta_schedule,
            start=options.beta_start,
            end=options.beta_end,
            count=options.num_train_timesteps,
            trained=options.trained_betas,
        )
        return alphas_cumprod(self.betas)

    def _schedule(self, request: RunRequest) -> Schedule:
        steps = request.steps
        self._check_steps(steps)
        timesteps = spaced_timesteps(
            self.options.timestep_spacing,
            steps=steps,
            train_steps=self.options.num_train_timesteps,
            offset=self.options.steps_offset,
        )
        return Schedule(timesteps.round().astype(np.int64), None, steps)

    def _stride(self) -> int:
        return self.options.num_train_timesteps // self._require_run()

    def _levels(self, t: int) -> tuple[float, float]:
        """The levels a of a timestep and a' of the one that the step goes to, t - T // N."""
        following = t - self._stride()
        return self._alpha_bar[t], self._alpha_bar[following] if following >= 0 else self._final_alpha_bar
