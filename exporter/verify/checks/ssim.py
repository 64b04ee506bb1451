"""Structural similarity of two images."""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

__all__ = ["ssim"]

_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03

FloatArray = NDArray[np.float64]


def ssim(output: NDArray[np.floating[Any]], reference: NDArray[np.floating[Any]]) -> float:
    """Compute the mean structural similarity index: 1 for equal images, about 0 for unrelated ones; NaN for NaN.

    Means mu, variances s^2 and covariance s_xy are taken in a Gaussian window of 11 x 11 pixels, sigma 1.5, at every
    position wholly inside the image. The results of the three colours are averaged:

        SSIM(x, y) = (2 mu_x mu_y + C1) (2 s_xy + C2) / ((mu_x^2 + mu_y^2 + C1) (s_x^2 + s_y^2 + C2)),

    C1 = (0.01 L)^2, C2 = (0.03 L)^2, L = 1 the range of the values. Wang, Bovik, Sheikh and Simoncelli 2004, "Image
    Quality Assessment: From Error Visibility to Structural Similarity", equation 13 and section III-C. Of an image
    smaller than the window, the window's middle is used.

    Args:
        output: x, floats (height, width, 3) in 0..1.
        reference: y, same shape.
    """
    x, y = output.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        mu_x, mu_y = _blur(x), _blur(y)
        square_x, square_y, product = mu_x * mu_x, mu_y * mu_y, mu_x * mu_y
        variances = _blur(x * x) - square_x + _blur(y * y) - square_y
        covariance = _blur(x * y) - product
        c1, c2 = _K1**2, _K2**2
        index = (2 * product + c1) * (2 * covariance + c2) / ((square_x + square_y + c1) * (variances + c2))
        return float(index.mean())


def _blur(image: FloatArray) -> FloatArray:
    """Convolve height and width with the window, where it lies inside: (H, W, C) -> (H - 10, W - 10, C)."""
    for axis in (0, 1):
        weights = _weights(min(_WINDOW, image.shape[axis]))
        image = sliding_window_view(image, len(weights), axis=axis) @ weights
    return image


def _weights(length: int) -> FloatArray:
    places = np.arange(length) - (length - 1) / 2
    weights = np.exp(-np.square(places) / (2 * _SIGMA**2))
    return np.asarray(weights / weights.sum())
