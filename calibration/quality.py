"""Quality of images against those of the float pipeline, and the budget for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError

__all__ = ["BEST", "Budget", "Quality", "decibels", "judge", "mean_square"]

FloatArray = NDArray[np.floating[Any]]

BEST = 120.0
"""dB. A higher PSNR counts as equal: it is the limit of float32."""

_SPREAD = 6.0
"""dB. One image may have twice the error allowed for the mean, as in `verify`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """PSNR of images in 0..1 against fp32, in dB.

    Attributes:
        mean: Mean over the images.
        worst: Smallest of the images.
    """

    mean: float
    worst: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} dB (worst image {self.worst:.1f} dB)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Limits for a precision.

    Attributes:
        min_psnr: Least mean PSNR in dB over all images; no image may be 6 dB below it. None: no limit.
        max_size: Most bytes of the graphs of all components together. None: no limit.
    """

    min_psnr: float | None = None
    max_size: int | None = None

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            InputError: A limit that is not a positive number.
        """
        if self.min_psnr is not None and not 0 < self.min_psnr < BEST:
            raise InputError(f"--min-psnr: got {self.min_psnr}, expected decibels between 0 and {BEST:.0f}")
        if self.max_size is not None and self.max_size < 1:
            raise InputError(f"--max-size: got {self.max_size}, expected a number of bytes")

    def fits(self, quality: Quality) -> bool:
        """Return whether the images are good enough."""
        return self.min_psnr is None or (quality.mean >= self.min_psnr and quality.worst >= self.min_psnr - _SPREAD)

    def __str__(self) -> str:
        parts = [] if self.min_psnr is None else [f"image PSNR of at least {self.min_psnr:g} dB"]
        parts += [] if self.max_size is None else [f"at most {self.max_size:,} bytes"]
        return " and ".join(parts) or "no limit"


def mean_square(images: FloatArray, references: FloatArray) -> NDArray[np.float64]:
    """Mean squared difference of each image: (B, H, W, 3) twice -> (B,). Infinite where an image holds NaN."""
    error = np.square(images.astype(np.float64) - references).mean(axis=(1, 2, 3))
    return np.where(np.isnan(error), np.inf, error)


def decibels(error: float) -> float:
    """PSNR of a mean squared difference, at most `BEST`; 0 for a broken image."""
    if error <= 10 ** (-BEST / 10):
        return BEST
    return max(-10 * math.log10(error), 0.0) if error < math.inf else 0.0


def judge(errors: Sequence[float] | NDArray[np.float64]) -> Quality:
    """Compute the quality of images with these mean squared differences."""
    found = [decibels(float(error)) for error in errors]
    return Quality(mean=math.fsum(found) / len(found), worst=min(found))
