"""Rotary positions of networks that rotate pairs of neighbouring numbers, as a product of complex numbers does."""

import torch

__all__ = ["Angles", "pair_tables", "rotate_pairs"]

Angles = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines."""


def pair_tables(cos: torch.Tensor, sin: torch.Tensor) -> Angles:
    """Return tables (B, tokens, 1, D), with two equal numbers for a pair, of (B, tokens, D / 2)."""
    return cos.repeat_interleave(2, dim=-1)[:, :, None], sin.repeat_interleave(2, dim=-1)[:, :, None]


def rotate_pairs(states: torch.Tensor, tables: Angles) -> torch.Tensor:
    """Rotate pairs of numbers of heads (B, tokens, heads, D). diffusers: `apply_rotary_emb` of complex numbers.

    Args:
        states: Queries or keys.
        tables: Of `pair_tables`, for all rows alike or for each.
    """
    cos, sin = tables
    first, second = states.reshape(*states.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack([-second, first], dim=-1).flatten(3)
    return states * cos + turned * sin
