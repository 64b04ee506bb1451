"""The base of schedulers over x = x0 + sigma noise that get their noise levels from a beta schedule."""

import math
from typing import TypeVar

import numpy as np

from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Sample
from diffoundry.runtime.schedulers.arithmetic.betas import alphas_cumprod, options_betas, without_zero_snr
from diffoundry.runtime.schedulers.arithmetic.sigmas import training_sigmas
from diffoundry.runtime.schedulers.bases.indexed import IndexedScheduler
from diffoundry.runtime.schedulers.options import BetaOptions

__all__ = ["SigmaScheduler"]

B = TypeVar("B", bound=BetaOptions)


class SigmaScheduler(IndexedScheduler[B]):
    """Euler, Heun, LMS, KDPM2: the sample's noise has standard deviation sigma, the model sees x / sqrt(sigma^2 + 1).

    Karras et al. 2022, Table 1 (VP preconditioning), https://arxiv.org/abs/2206.00364.

    Attributes:
        betas: float32, (T,).
        alphas_cumprod: alpha_bar, float32, (T,).
    """

    def _prepare(self) -> None:
        self.betas = options_betas(self.options)
        self.alphas_cumprod = alphas_cumprod(self.betas)
        if getattr(self.options, "rescale_betas_zero_snr", False):
            self.alphas_cumprod = without_zero_snr(self.alphas_cumprod)
        self._training_sigmas: Float32Array = training_sigmas(self.alphas_cumprod)
        self._log_training_sigmas: Float32Array = np.log(self._training_sigmas)

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the first sample: sigma_max, or with the picture's variance where t < T - 1."""
        sigma = max(self._sigma)
        if getattr(self.options, "timestep_spacing", "linspace") in ("linspace", "trailing"):
            return sigma
        return math.sqrt(sigma * sigma + 1.0)

    def scale_model_input(self, sample: Sample, timestep: float | None = None) -> Sample:
        """The sample divided by sqrt(sigma^2 + 1); the first call of a run finds its place by the timestep."""
        sigma = self._sigma[self._index(timestep)]
        return sample * (1.0 / math.sqrt(sigma * sigma + 1.0))
