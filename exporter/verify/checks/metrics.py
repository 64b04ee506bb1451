"""Distance of an array from its reference: the four numbers of every comparison in `verify`."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TensorDistance", "measure", "psnr"]

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorDistance:
    """The distance of an output y from its reference r, over all n elements, computed in float64.

    A NaN or an infinity in y makes every number NaN or infinite, which passes no gate.

    Attributes:
        max_abs: max |y - r|.
        peak: The larger of max r - min r, the range of the reference, and its RMS |r| / sqrt(n), which is more than the
            range where a few numbers are nearly equal, such as the scores of two images: the peak of the PSNR.
        relative_max: max_abs / peak.
        relative_rms: |y - r| / |r|, Euclidean norms.
        cosine: y . r / (|y| |r|).
        psnr: 20 log10(peak / RMS(y - r)), in dB; infinite when y equals r.
    """

    max_abs: float
    peak: float
    relative_max: float
    relative_rms: float
    cosine: float
    psnr: float


def measure(output: FloatArray, reference: FloatArray) -> TensorDistance:
    """Compare two arrays of one shape.

    Args:
        output: y, floats of any shape.
        reference: r, same shape.
    """
    y, r = output.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    with np.errstate(all="ignore"):
        error = y - r
        size, distance = math.sqrt(float(r @ r)), math.sqrt(float(error @ error))
        max_abs, peak = float(np.abs(error).max()), max(float(np.ptp(r)), size / math.sqrt(r.size))
        return TensorDistance(
            max_abs=max_abs,
            peak=peak,
            relative_max=_ratio(max_abs, peak),
            relative_rms=_ratio(distance, size),
            cosine=1.0 if distance == 0 else _ratio(float(y @ r), math.sqrt(float(y @ y)) * size),
            psnr=psnr(output, reference, peak),
        )


def psnr(output: FloatArray, reference: FloatArray, peak: float) -> float:
    """Peak signal-to-noise ratio 20 log10(peak / RMS(output - reference)) in dB, infinite for equal arrays.

    Args:
        output: Floats of any shape.
        reference: Same shape.
        peak: Largest difference that two values could have: 1 for images in 0..1.
    """
    with np.errstate(all="ignore"):
        rms = math.sqrt(float(np.mean(np.square(output.astype(np.float64) - reference.astype(np.float64)))))
    if math.isnan(rms):
        return math.nan
    if rms == 0:
        return math.inf
    return 20 * math.log10(peak / rms) if peak > 0 and rms < math.inf else -math.inf


def _ratio(value: float, scale: float) -> float:
    """Quotient with 0 / 0 = 0 and x / 0 infinite."""
    if scale == 0:
        return 0.0 if value == 0 else value * math.inf
    return value / scale
