"""Limits of the predicted clean sample x0: static clipping and dynamic thresholding."""

import math
from typing import Protocol

import numpy as np

from diffoundry.runtime.schedulers.arithmetic.arrays import Sample

__all__ = ["LimitOptions", "clip", "dynamic_threshold", "limit_x0"]


def clip(x0: Sample, limit: float) -> Sample:
    """x0 limited to [-limit, limit] (diffusers: `clip_sample`, `clip_sample_range`).

    Args:
        x0: float32, (B, ...).
        limit: largest magnitude kept.
    """
    return np.clip(x0, -limit, limit)


def dynamic_threshold(x0: Sample, *, ratio: float, max_value: float | None) -> Sample:
    """Per image: s = the given quantile of |x0|, at least 1; x0 limited to [-s, s], then divided by s.

    Saharia et al. 2022 (Imagen), section 2.3, https://arxiv.org/abs/2205.11487. diffusers: `_threshold_sample`.

    Args:
        x0: float32, (B, ...).
        ratio: the quantile (diffusers: `dynamic_thresholding_ratio`).
        max_value: largest s (diffusers: `sample_max_value`); None for no limit.
    """
    magnitude = np.abs(x0).reshape(x0.shape[0], -1)
    s = np.clip(_quantile(magnitude, ratio), 1.0, None)
    if max_value is not None:  # torch.clamp applies the upper bound last, so that a max_value below 1 wins
        s = np.minimum(s, s.dtype.type(max_value))
    s = s.reshape(-1, *[1] * (x0.ndim - 1))
    return np.clip(x0, -s, s) / s


def _quantile(values: Sample, ratio: float) -> Sample:
    """`torch.quantile(values, ratio, dim=1)`: linear interpolation between the two nearest, in the values' dtype."""
    number = values.dtype.type
    rank = number(ratio) * number(values.shape[1] - 1)
    low, high = math.floor(rank), math.ceil(rank)
    ordered = np.partition(values, (low, high), axis=1)
    weight = float(rank - number(low))
    return ordered[:, low] + (ordered[:, high] - ordered[:, low]) * weight


class LimitOptions(Protocol):
    """The options that limit x0, as DDIM, DDPM, LCM and TCD have them."""

    @property
    def thresholding(self) -> bool:
        """Thresholds dynamically if True; wins over `clip_sample`."""
        ...

    @property
    def dynamic_thresholding_ratio(self) -> float:
        """Quantile of |x0|."""
        ...

    @property
    def sample_max_value(self) -> float | None:
        """Largest threshold; None for no limit."""
        ...

    @property
    def clip_sample(self) -> bool:
        """Clips if True."""
        ...

    @property
    def clip_sample_range(self) -> float:
        """Largest magnitude kept."""
        ...


def limit_x0(x0: Sample, options: LimitOptions) -> Sample:
    """x0 thresholded, clipped or untouched, as the options say."""
    if options.thresholding:
        return dynamic_threshold(x0, ratio=options.dynamic_thresholding_ratio, max_value=options.sample_max_value)
    if options.clip_sample:
        return clip(x0, options.clip_sample_range)
    return x0
