"""Image encoder of Qwen 3 VL as a traceable module, whose positions are inputs."""

from typing import Any

import torch
from torch.nn import functional

from diffoundry.exporter.component import Component

__all__ = ["Qwen3VisionModule"]


class Qwen3VisionModule(torch.nn.Module):
    """Computes tokens of an image. transformers: `Qwen3VLVisionModel.forward`.

    transformers computes of sizes which learned positions lie around a patch, and how near. Here both are inputs.
    """

    def __init__(self, network: Any, _component: Component) -> None:
        super().__init__()
        visual = getattr(network, "model", network).visual
        self.blocks, self.merger, self.positions = visual.blocks, visual.merger, visual.pos_embed
        self.deep = visual.deepstack_merger_list
        self.indexes = tuple(visual.deepstack_visual_indexes)
        layer = visual.patch_embed.proj
        weight = layer.weight.detach()
        self.patches = torch.nn.Linear(weight[0].numel(), len(weight))
        # A copy: a weight of another shape shall not have the name of the checkpoint's.
        self.patches.weight = torch.nn.Parameter(weight.clone().flatten(1), requires_grad=False)
        self.patches.bias = layer.bias

    def forward(
        self,
        pixel_values: torch.Tensor,
        position_ids: torch.Tensor,
        position_weights: torch.Tensor,
        rotary_cos: torch.Tensor,
        rotary_sin: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Encode an image.

        Args:
            pixel_values: Values of patches, float32 (tokens, patches, values).
            position_ids: The learned positions around each patch, int32 (tokens, patches, 4).
            position_weights: Their weights, (tokens, patches, 4).
            rotary_cos: Cosines of the angles of their places, (tokens, patches, head / 2).
            rotary_sin: Sines.

        Returns:
            Tokens (tokens, width), and further features of them, for the first layers of the language model.
        """
        angles = tuple(torch.cat([one, one], dim=-1).flatten(0, 1) for one in (rotary_cos, rotary_sin))
        learned = (self.positions(position_ids) * position_weights[..., None]).sum(dim=2)
        states = (self.patches(pixel_values) + learned).flatten(0, 1)
        count = pixel_values.shape[1]
        deep: dict[int, torch.Tensor] = {}
        for index, block in enumerate(self.blocks):
            states = _run_block(block, states, angles)
            if index in self.indexes:
                place = self.indexes.index(index)
                deep[place] = _merge(self.deep[place], states, count)
        return (_merge(self.merger, states, count), *(deep[place] for place in range(len(self.indexes))))


def _run_block(block: Any, states: torch.Tensor, angles: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Run a block on patches (patches, D), each of which attends to all."""
    attn = block.attn
    joined = attn.qkv(block.norm1(states)).unflatten(-1, (3, attn.num_heads, -1))
    query, key, value = (part.transpose(0, 1)[None] for part in joined.unbind(1))
    cos, sin = angles
    query, key = (part * cos + _rotate_half(part) * sin for part in (query, key))
    attended = functional.scaled_dot_product_attention(query, key, value)[0]
    states = states + attn.proj(attended.transpose(0, 1).flatten(1))
    result: torch.Tensor = states + block.mlp(block.norm2(states))
    return result


def _merge(merger: Any, states: torch.Tensor, count: int) -> torch.Tensor:
    """Join the patches of a token. transformers: `Qwen3VLVisionPatchMerger`."""
    if merger.use_postshuffle_norm:
        merged = merger.norm(torch.unflatten(states, 0, (-1, count)).flatten(1))
    else:
        merged = torch.unflatten(merger.norm(states), 0, (-1, count)).flatten(1)
    result: torch.Tensor = merger.linear_fc2(merger.act_fn(merger.linear_fc1(merged)))
    return result


def _rotate_half(states: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
