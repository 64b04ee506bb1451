"""Sine tables of the positions of patches as inputs, one for rows and one for columns."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed

__all__ = ["place_patches", "position_tables"]


def position_tables(embed: Any, sides: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the tables of which diffusers makes the positions for a size, by the names of the inputs.

    Args:
        embed: diffusers' `PatchEmbed`.
        sides: Height and width of the latents.
    """
    rows, columns = (side // embed.patch_size for side in sides)
    table = get_2d_sincos_pos_embed(
        embed.proj.out_channels,
        (rows, columns),
        base_size=embed.base_size,
        interpolation_scale=embed.interpolation_scale,
        output_type="pt",
    ).reshape(rows, columns, 2, -1)
    return {"position_rows": table[:, 0, 1], "position_columns": table[0, :, 0]}


def place_patches(features: torch.Tensor, position_rows: torch.Tensor, position_columns: torch.Tensor) -> torch.Tensor:
    """Return features (B, D, rows, columns) of patches with their positions, (B, patches, D)."""
    _, width, rows, columns = features.shape
    positions = torch.cat(
        [
            position_columns.unsqueeze(0).expand(rows, columns, -1),
            position_rows.unsqueeze(1).expand(rows, columns, -1),
        ],
        dim=-1,
    )
    return features.flatten(2).transpose(1, 2) + positions.reshape(1, -1, width)
