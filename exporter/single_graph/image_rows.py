"""Rows of images in the recorded call: the graph takes any number of images, so they are told from other sizes."""

from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.exporter.single_graph.operation import UnrecordedError

__all__ = ["IMAGES", "has_images", "is_constant_of_images", "one_row"]

IMAGES = 7
"""Images of the recorded call. Where a first size is a multiple of it, the graph reads the size from `Trace.images`."""


def has_images(array: Any) -> bool:
    """Return True for an array of rows of images, or of several such groups of rows."""
    return len(array.shape) > 1 and array.shape[0] > 0 and array.shape[0] % IMAGES == 0


def one_row(constant: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the row that all rows of a constant are.

    Raises:
        UnrecordedError: They differ, as those of an unknown number of images cannot.
    """
    if (constant != constant[:1]).any():
        raise UnrecordedError("rows of a constant that differ from image to image")
    return constant[:1]


def is_constant_of_images(array: Any) -> bool:
    """Return True for rows of images that are known when the pipeline is recorded."""
    return isinstance(array, np.ndarray) and has_images(array)
