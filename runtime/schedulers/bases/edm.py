"""The base of schedulers for EDM models: Karras et al.'s preconditioning with their own noise levels."""

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Sample
from diffoundry.runtime.schedulers.bases.indexed import IndexedScheduler
from diffoundry.runtime.schedulers.options import TrainingOptions

__all__ = ["EDMOptions", "EDMScheduler", "c_noise"]


@dataclass(frozen=True, kw_only=True)
class EDMOptions(TrainingOptions):
    """Options that the EDM schedulers share, named as in diffusers."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    sigma_schedule: Literal["karras", "exponential"] = "karras"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rho: float = 7.0
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"


E = TypeVar("E", bound=EDMOptions)


class EDMScheduler(IndexedScheduler[E]):
    """A scheduler of models with EDM's preconditioning.

        x0 = c_skip x + c_out F(c_in x, c_noise),    c_noise = log(sigma) / 4
        c_skip = d^2 / (sigma^2 + d^2),    c_out = sigma d / sqrt(sigma^2 + d^2),    c_in = 1 / sqrt(sigma^2 + d^2)

    with d = `sigma_data`, the images' standard deviation; "v_prediction" has -F. Timesteps are c_noise.

    Karras et al. 2022, equation 7 and Table 1 (right column), https://arxiv.org/abs/2206.00364.
    """

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the first sample: sqrt(sigma_max^2 + 1)."""
        return math.sqrt(self.options.sigma_max**2 + 1.0)

    def scale_model_input(self, sample: Sample, timestep: float | None = None) -> Sample:
        """c_in x; the first call of a run finds its place by the timestep."""
        sigma = self._sigma[self._index(timestep)]
        return sample * (1.0 / math.sqrt(sigma * sigma + self.options.sigma_data**2))

    def _levels(self, ramp: NDArray[np.floating]) -> Float32Array:
        """The noise levels at places from 0 (the highest) to 1, (N,); "exponential" spaces them evenly itself."""
        low, high = self.options.sigma_min, self.options.sigma_max
        if self.options.sigma_schedule == "exponential":
            return float32.exp(float32.linspace(math.log(low), math.log(high), len(ramp)))[::-1].copy()
        inverse = 1.0 / self.options.rho
        root_low, root_high = low**inverse, high**inverse
        # a float32 ramp leads to float32 roots, but their powers are rounded once
        roots = (root_high + ramp * (root_low - root_high)).astype(np.float64)
        levels: Float32Array = (roots**self.options.rho).astype(np.float32)
        return levels

    def _denoised(self, output: Sample, sample: Sample, sigma: float) -> Sample:
        """x0 of a model output at noise level sigma."""
        data = self.options.sigma_data
        variance = sigma * sigma + data * data
        sign = -1.0 if self.options.prediction_type == "v_prediction" else 1.0
        return sample * (data * data / variance) + output * (sign * sigma * data / math.sqrt(variance))


def c_noise(sigmas: Float32Array) -> Float32Array:
    """Timesteps of noise levels: log(sigma) / 4."""
    return float32.log(sigmas) * 0.25
