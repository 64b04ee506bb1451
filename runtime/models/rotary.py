"""Rotary position embeddings, whose angles are computed here and are inputs of a graph, so that it serves every size.

Su et al. 2021, RoFormer, https://arxiv.org/abs/2104.09864.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.models.protocols import FloatArray

__all__ = ["THETA", "axis_positions", "grid_positions", "rotary_angles"]

THETA = 10000.0
"""Base of the frequencies. Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5."""


def rotary_angles(
    positions: npt.NDArray[np.float64],
    widths: Sequence[int],
    theta: float = THETA,
    *,
    dtype: type[np.floating[Any]] = np.float64,
    rounded: bool = False,
) -> tuple[FloatArray, FloatArray]:
    """Return cosines and sines, float32 (..., sum(widths) / 2), of the angles of positions.

    Frequency i of an axis of width d is theta^(-2i / d). diffusers: `get_1d_rotary_pos_embed`.

    Args:
        positions: (..., axes), the place of a token on each axis.
        widths: Of each axis, even numbers: its part of the width of a head.
        theta: Base of the frequencies.
        dtype: Of frequencies and angles, as in the network's own code.
        rounded: True rounds the angles to float32 before, as networks with complex numbers do.
    """
    places, base = positions.astype(dtype), dtype(theta)
    angles = [
        places[..., axis, None] * (dtype(1) / base ** (np.arange(0, width, 2, dtype=dtype) / dtype(width)))
        for axis, width in enumerate(widths)
    ]
    joined = np.concatenate(angles, axis=-1)
    if rounded:
        joined = joined.astype(np.float32)
    joined = joined.astype(np.float64)
    return np.cos(joined).astype(np.float32), np.sin(joined).astype(np.float32)


def grid_positions(first: float, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Return positions (rows, columns, 3): `first`, the row, and the column."""
    places = np.indices((rows, columns), dtype=np.float64)
    return np.stack([np.full((rows, columns), first), *places], axis=-1)


def axis_positions(count: int, axis: int, axes: int) -> npt.NDArray[np.float64]:
    """Return positions (count, axes) of a row: 0 to count - 1 on one axis, 0 on the others."""
    places = np.zeros((count, axes))
    places[:, axis] = np.arange(count)
    return places
