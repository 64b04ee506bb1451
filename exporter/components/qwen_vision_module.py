"""Image encoder of Qwen 2.5 VL as a traceable module, whose windows, mask and positions are inputs."""

from typing import Any

import torch
from torch.nn import functional

from diffoundry.exporter.component import Component

__all__ = ["QwenVisionModule"]

_HIDDEN = -1e4
"""Added to the scores of patches that a window lacks. exp(-1e4) is 0 in every float type."""


class QwenVisionModule(torch.nn.Module):
    """Computes tokens of an image. transformers: `Qwen2_5_VisionTransformerPretrainedModel.forward`.

    transformers sorts patches into windows of different sizes. Here each window has room for as many, and a mask.
    """

    def __init__(self, network: Any, _component: Component) -> None:
        super().__init__()
        visual = getattr(network, "model", network).visual
        self.blocks, self.merger = visual.blocks, visual.merger
        self.whole = frozenset(visual.fullatt_block_indexes)
        weight = visual.patch_embed.proj.weight.detach()
        self.patches = torch.nn.Linear(weight[0].numel(), len(weight), bias=False)
        # A copy: a weight of another shape shall not have the name of the checkpoint's.
        self.patches.weight = torch.nn.Parameter(weight.clone().flatten(1), requires_grad=False)

    def forward(
        self, pixel_values: torch.Tensor, window_mask: torch.Tensor, rotary_cos: torch.Tensor, rotary_sin: torch.Tensor
    ) -> tuple[torch.Tensor]:
        """Encode an image.

        Args:
            pixel_values: Values of patches, float32 (windows, patches, values).
            window_mask: 1 for a patch, 0 where a window lacks one, (windows, patches).
            rotary_cos: Cosines of the angles of their positions, (windows, patches, head / 2).
            rotary_sin: Sines.

        Returns:
            Tokens (windows, patches / 4, width).
        """
        angles = torch.cat([rotary_cos, rotary_cos], dim=-1), torch.cat([rotary_sin, rotary_sin], dim=-1)
        hidden = (1.0 - window_mask) * _HIDDEN
        joined = tuple(table.flatten(0, 1)[None] for table in angles), hidden.flatten()[None]
        states = self.patches(pixel_values)
        count = states.shape[1]
        for index, block in enumerate(self.blocks):
            if index in self.whole:
                states = torch.unflatten(_run_block(block, states.flatten(0, 1)[None], *joined)[0], 0, (-1, count))
            else:
                states = _run_block(block, states, angles, hidden)
        normalized = self.merger.ln_q(states)
        merged = normalized.reshape(normalized.shape[0], -1, self.merger.hidden_size)
        return (self.merger.mlp(merged),)


def _run_block(
    block: Any, states: torch.Tensor, angles: tuple[torch.Tensor, ...], hidden: torch.Tensor
) -> torch.Tensor:
    """Run a block on windows (B, patches, D), each of which attends to itself."""
    attn = block.attn
    joined = attn.qkv(block.norm1(states)).unflatten(-1, (3, attn.num_heads, -1))
    query, key, value = (part.transpose(1, 2) for part in joined.unbind(2))
    cos, sin = (table[:, None] for table in angles)
    query, key = (part * cos + _rotate_half(part) * sin for part in (query, key))
    attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=hidden[:, None, None, :])
    states = states + attn.proj(attended.transpose(1, 2).flatten(2))
    result: torch.Tensor = states + block.mlp(block.norm2(states))
    return result


def _rotate_half(states: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
