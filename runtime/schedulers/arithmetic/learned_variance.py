"""Model outputs that hold a variance beside the mean: twice the channels, mean first.

Nichol & Dhariwal 2021, section 3.1, https://arxiv.org/abs/2102.09672. diffusers: `variance_type` "learned" and
"learned_range".
"""

import math
from typing import Literal, TypeAlias

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Sample

__all__ = ["VarianceType", "is_learned", "learned_deviation", "mean_of", "split_variance"]

VarianceType: TypeAlias = Literal[
    "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"
]
"""Source of the variance of a step. Solvers that read DDPM's configs only check whether it is learned."""


def is_learned(variance_type: VarianceType | None) -> bool:
    """Return True where the model's output holds a variance."""
    return variance_type in ("learned", "learned_range")


def mean_of(output: Sample, sample: Sample) -> Sample:
    """The mean's channels of an output, for solvers that have no use for the variance.

    Args:
        output: (B, C or 2 C, ...).
        sample: (B, C, ...).
    """
    return output[:, : sample.shape[1]]


def split_variance(output: Sample, sample: Sample) -> tuple[Sample, Sample]:
    """Mean and variance of an output, each (B, C, ...).

    Raises:
        InputError: the output has not twice the sample's channels.
    """
    channels = sample.shape[1]
    if output.shape[1] != 2 * channels:
        raise InputError(
            f"model output has {output.shape[1]} channels, expected {2 * channels} for a sample of {channels}: option "
            "'variance_type' says that the variance is learned. Set it to a fixed one if the model has none."
        )
    return output[:, :channels], output[:, channels:]


def learned_deviation(predicted: Sample, variance_type: VarianceType | None, *, small: float, large: float) -> Sample:
    """Standard deviation of the noise from the model's variance output.

    "learned" is the variance itself; "learned_range" is v in [-1, 1] between the logarithms of the smallest and the
    largest variance: exp(f log large + (1 - f) log small), f = (v + 1) / 2 (equation 15).

    Args:
        predicted: float32, (B, C, ...).
        variance_type: "learned" or "learned_range".
        small: posterior variance, the lower bound.
        large: beta_t, the upper bound.
    """
    if variance_type == "learned":
        root: Sample = np.sqrt(predicted)
        return root
    low, high = 0.5 * math.log(small), 0.5 * math.log(large)
    deviation: Sample = np.exp((predicted + 1.0) * (0.5 * (high - low)) + low)
    return deviation
