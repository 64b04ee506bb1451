"""Random motion of images, so that positions must be read off the edges."""

import math

import torch
from torch.nn import functional

__all__ = ["FACTOR", "draw_motion", "move"]

FACTOR = 2  # moved images are drawn twice as large and averaged down: no jagged lines

_TURN = math.radians(25)
_SCALES = (0.75, 1.05)
_ASPECT = 0.1
_SHIFT = 0.22
_STILL = 0.1


def draw_motion(count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw affine maps for `move`, float32 (count, 2, 3), on the processor.

    One half is mirrored; all are turned by up to 25 degrees, scaled by 0.75 to 1.05, one side by up to 10 % more than
    the other, shifted by up to 7 pixels. One in ten stays unchanged.
    """
    chance = torch.rand((count, 7), generator=generator)
    signed = 2 * chance - 1
    angle = _TURN * signed[:, 0]
    low, high = (math.log(scale) for scale in _SCALES)
    scale = torch.exp(low + (high - low) * chance[:, 1])
    aspect = torch.exp(0.5 * _ASPECT * signed[:, 2])
    mirror = torch.where(signed[:, 3] < 0, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    shift = _SHIFT * signed[:, 4:6]
    # Output coordinates to input coordinates, as affine_grid wants them: shift back, turn back, scale back, mirror.
    across = torch.stack([cos, sin], 1) * (mirror / (scale * aspect))[:, None]
    down = torch.stack([-sin, cos], 1) * (aspect / scale)[:, None]
    turn = torch.stack([across, down], 1)
    maps = torch.cat([turn, -turn @ shift[:, :, None]], 2)
    still = torch.eye(2, 3).expand(count, 2, 3)
    return torch.where((chance[:, 6] < _STILL)[:, None, None], still, maps)


def move(images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Move each image by its map, on white.

    Args:
        images: float32 (N, 3, 128, 128), 1 is white.
        maps: float32 (N, 2, 3), from `draw_motion`.

    Returns:
        float32 (N, 3, 64, 64).
    """
    size = [len(images), *images.shape[1:]]
    grid = functional.affine_grid(maps.to(images.device), size, align_corners=False)
    moved = functional.grid_sample(images - 1, grid, align_corners=False) + 1
    return functional.avg_pool2d(moved, FACTOR)
