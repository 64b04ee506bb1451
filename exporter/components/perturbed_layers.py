"""Self-attention whose layers may be perturbed: which layers diffusers perturbs, and a token's own value.

Ahn et al. 2024, https://arxiv.org/abs/2403.17377.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS

__all__ = ["mix_own_value", "perturbed_input"]


def perturbed_input(blocks: Sequence[Any], rows: int, parts: Mapping[type, int]) -> dict[str, torch.Tensor]:
    """Return the layers that diffusers perturbs for its last rows, as an input; none without perturbed attention.

    Args:
        blocks: Of a network, each with self-attention `attn1`.
        rows: Of its inputs.
        parts: Processor of diffusers to the number of equal parts of the rows, of which it perturbs the last.
    """
    counts = [parts.get(type(block.attn1.processor)) for block in blocks]
    if not any(counts):
        return {}
    perturbed = torch.zeros(rows, len(counts))
    for index, count in enumerate(counts):
        if count is not None:
            perturbed[rows - rows // count :, index] = 1.0
    return {IDENTITY_LAYERS: perturbed}


def mix_own_value(attention: Any, states: torch.Tensor, result: torch.Tensor, alone: torch.Tensor) -> torch.Tensor:
    """Return the result of self-attention, in rows where `alone` (B,) is 1 each token's own value, projected.

    Args:
        attention: The layer.
        states: Its input (B, tokens, D).
        result: Its output.
        alone: 1 for rows whose tokens attend to themselves alone.
    """
    share = alone[:, None, None]
    own: torch.Tensor = attention.to_out[0](attention.to_v(states))
    return result * (1.0 - share) + own * share
