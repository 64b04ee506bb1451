"""The base of schedulers over x = x0 + sigma noise: noise levels at spaced timesteps, or placed between their ends."""

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Sample
from diffoundry.runtime.schedulers.arithmetic.betas import alphas_cumprod, options_betas, without_zero_snr
from diffoundry.runtime.schedulers.arithmetic.sigmas import placed_sigmas, sigma_to_timestep, training_sigmas
from diffoundry.runtime.schedulers.arithmetic.spacing import Spacing, spaced_timesteps
from diffoundry.runtime.schedulers.bases.indexed import IndexedScheduler
from diffoundry.runtime.schedulers.options import BetaOptions, SigmaOptions, SigmaSchedule
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["SpacedOptions", "SpacedSigmaOptions", "SpacedSigmaScheduler"]


@dataclass(frozen=True, kw_only=True)
class SpacedOptions(BetaOptions):
    """Options that all these schedulers have, named as in diffusers."""

    prediction_type: str = "epsilon"
    timestep_spacing: Spacing = "linspace"
    steps_offset: int = 0

    @property
    def sigma_schedule(self) -> SigmaSchedule:
        """The rule that places the noise levels."""
        return SigmaSchedule.TRAINED


@dataclass(frozen=True, kw_only=True)
class SpacedSigmaOptions(SigmaOptions, SpacedOptions):
    """The same with the rules `use_*_sigmas`."""


P = TypeVar("P", bound=SpacedOptions)


class SpacedSigmaScheduler(IndexedScheduler[P]):
    """Euler, Heun, LMS, KDPM2: the sample's noise has standard deviation sigma, the model sees x / sqrt(sigma^2 + 1).

    Karras et al. 2022, Table 1 (VP preconditioning), https://arxiv.org/abs/2206.00364.

    Attributes:
        betas: float32, (T,).
        alphas_cumprod: alpha_bar, float32, (T,).
    """

    sigmas: Float32Array

    def _prepare(self) -> None:
        self.betas = options_betas(self.options)
        self.alphas_cumprod = alphas_cumprod(self.betas)
        if getattr(self.options, "rescale_betas_zero_snr", False):
            self.alphas_cumprod = without_zero_snr(self.alphas_cumprod)
        self._training_sigmas: Float32Array = training_sigmas(self.alphas_cumprod)
        self._log_training_sigmas: Float32Array = np.log(self._training_sigmas)

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the first sample: sigma_max, or with the image's variance where t < T - 1."""
        sigma = max(self._sigma)
        if self.options.timestep_spacing in ("linspace", "trailing"):
            return sigma
        return math.sqrt(sigma * sigma + 1.0)

    def scale_model_input(self, sample: Sample, timestep: float | None = None) -> Sample:
        """Divide the sample by sqrt(sigma^2 + 1); the first call of a run finds its place by the timestep."""
        sigma = self._sigma[self._index(timestep)]
        return sample * (1.0 / math.sqrt(sigma * sigma + 1.0))

    def _levels(self, request: RunRequest, train_steps: int) -> tuple[NDArray[Any], NDArray[np.floating[Any]]]:
        """Compute timesteps and noise levels of a run, without the final level.

        Returns:
            timesteps, float32, or float64 where a rule of `use_*_sigmas` has placed them, and the levels.

        Raises:
            InputError: custom timesteps beside such a rule.
        """
        options, rule, steps = self.options, self.options.sigma_schedule, request.steps
        if request.timesteps is None:
            spacing, offset = options.timestep_spacing, options.steps_offset
            timesteps = spaced_timesteps(spacing, steps=steps, train_steps=train_steps, offset=offset)
        elif rule is SigmaSchedule.TRAINED:
            timesteps = np.asarray(request.timesteps, dtype=np.float64)
        else:
            self._refuse_timesteps(f"'use_{rule}_sigmas'")
        spaced = timesteps.astype(np.float32)
        levels = self._trained_levels(spaced, steps)
        if rule is SigmaSchedule.TRAINED:
            return spaced, levels
        # `steps` levels, where "trailing" spaces one more
        low, high = self._ends(rule, levels[-1].item(), levels[0].item())
        placed = placed_sigmas(rule, low, high, steps)
        return sigma_to_timestep(placed, self._log_training_sigmas), placed

    def _trained_levels(self, timesteps: Float32Array, steps: int) -> NDArray[np.floating[Any]]:  # noqa: ARG002
        """Interpolate the training sigmas at timesteps."""
        return np.interp(timesteps, np.arange(len(self._training_sigmas)), self._training_sigmas)

    def _ends(self, rule: SigmaSchedule, low: float, high: float) -> tuple[float, float]:  # noqa: ARG002
        """Return the ends of the levels that a rule places, from those of the spaced ones."""
        return self._carried_ends(low, high)

    def _denoised(self, output: Sample, sample: Sample, sigma: float) -> Sample:
        """Compute the clean sample from the model's output for the scaled x, and x itself."""
        if self.options.prediction_type == "epsilon":
            return sample - sigma * output
        if self.options.prediction_type == "v_prediction":
            variance = sigma * sigma + 1.0
            return output * (-sigma / math.sqrt(variance)) + sample * (1.0 / variance)
        return output
