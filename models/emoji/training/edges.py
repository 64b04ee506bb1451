"""Edges of images, for training the companion for edges and for its control images. NumPy arrays or torch tensors."""

from typing import Any

import numpy as np
from PIL import Image

__all__ = ["edge_image", "edges", "overlap"]

_STRENGTH = 0.3
_BORDER = 3


def edges(images: Any, strength: float = _STRENGTH) -> Any:
    """Find thin lines where an image changes: Canny's first steps (1986), without hysteresis.

    Steps: a 3 x 3 binomial blur; central differences; their energy, summed over the channels (Di Zenzo 1986). A pixel
        is on a line if its energy is above `strength` squared and not less than that of both neighbours in the
        direction, across or down, that changes more.

    Args:
        images: (N, 3, H, W), -1 to 1; an array of NumPy or of PyTorch on any device: slices and arithmetic alone.
        strength: least length of the gradient in all channels, in the images' unit over two pixels.

    Returns:
        Of the same kind, (N, 1, H, W): 1 on a line, 0 elsewhere and in a border of three pixels.
    """
    rows = (images[..., :-2, :] + 2 * images[..., 1:-1, :] + images[..., 2:, :]) / 4
    smooth = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
    across = ((smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2]) ** 2).sum(1)
    down = ((smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1]) ** 2).sum(1)
    energy = across + down
    middle = energy[:, 1:-1, 1:-1]
    ridge_across = (middle >= energy[:, 1:-1, :-2]) & (middle > energy[:, 1:-1, 2:])
    ridge_down = (middle >= energy[:, :-2, 1:-1]) & (middle > energy[:, 2:, 1:-1])
    steeper = (across >= down)[:, 1:-1, 1:-1]
    lines = images[:, :1] * 0
    inner = slice(_BORDER, -_BORDER)
    lines[:, 0, inner, inner] = (middle > strength**2) & ((ridge_across & steeper) | (ridge_down & ~steeper))
    return lines


def edge_image(image: Image.Image) -> Image.Image:
    """Convert one image to the control image of its edges: white lines on black, RGB, of the same size."""
    values = np.asarray(image.convert("RGB"), dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1.0
    lines = edges(values[None])[0, 0]
    return Image.fromarray((255 * lines).astype(np.uint8)).convert("RGB")


def overlap(drawn: Any, wanted: Any) -> Any:
    """Measure how well lines overlap: the harmonic mean of two shares, each within one pixel's reach.

    The share of drawn pixels that have a wanted one among their 3 x 3 neighbours, and the reverse (Martin, Fowlkes and
    Malik 2004, https://doi.org/10.1109/TPAMI.2004.1273918, with a fixed reach instead of a matching).

    Args:
        drawn: (N, 1, H, W), lines above 0.
        wanted: the same.

    Returns:
        (N,), from 0 to 1; 0 where either has no line.
    """
    one, other = drawn > 0, wanted > 0
    precision = _share(one, _wide(other))
    recall = _share(other, _wide(one))
    return 2 * precision * recall / (precision + recall + 1e-9)


def _share(lines: Any, near: Any) -> Any:
    return (lines & near).sum((1, 2, 3)) / (lines.sum((1, 2, 3)) + 1e-9)


def _wide(lines: Any) -> Any:
    tall = lines | lines
    tall[..., 1:, :] |= lines[..., :-1, :]
    tall[..., :-1, :] |= lines[..., 1:, :]
    wide = tall | tall
    wide[..., 1:] |= tall[..., :-1]
    wide[..., :-1] |= tall[..., 1:]
    return wide
