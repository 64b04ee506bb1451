"""Names of the layers of Stable Diffusion 3's transformer in the original code, and in files that follow it.

Esser et al. 2024, https://github.com/Stability-AI/sd3.5, `mmditx.py`. diffusers:
`loaders.single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers`, the other way round.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

__all__ = ["OriginalLayer", "mmdit_layers"]

_OUTSIDE = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
"""Layers outside the blocks."""

_BLOCK = {
    "attn.to_q": "x_block.attn.qkv",
    "attn.to_k": "x_block.attn.qkv",
    "attn.to_v": "x_block.attn.qkv",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.add_q_proj": "context_block.attn.qkv",
    "attn.add_k_proj": "context_block.attn.qkv",
    "attn.add_v_proj": "context_block.attn.qkv",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.to_q": "x_block.attn2.qkv",
    "attn2.to_k": "x_block.attn2.qkv",
    "attn2.to_v": "x_block.attn2.qkv",
    "attn2.to_out.0": "x_block.attn2.proj",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
"""Layers of a block; those of one original layer in the order of its rows."""

_SWAPPED = "context_block.adaLN_modulation.1"


class OriginalLayer(NamedTuple):
    """A layer of the original code.

    Attributes:
        layers: Layers of diffusers that hold its rows, in their order.
        swapped: True if its two halves are scale and shift in the other order.
    """

    layers: tuple[str, ...]
    swapped: bool = False


def mmdit_layers(names: Collection[str]) -> dict[str, OriginalLayer]:
    """Map names of original layers to their layers of diffusers.

    Args:
        names: Layers of diffusers, all of one transformer: the last block reads the text and does not change it.
    """
    known = set(names)
    found: dict[str, list[str]] = defaultdict(list)
    for name, original in _OUTSIDE.items():
        if name in known:
            found[original].append(name)
    blocks = {name.split(".")[1] for name in names if name.startswith("transformer_blocks.")}
    for block in sorted(blocks, key=int):
        for inner, original in _BLOCK.items():
            name = f"transformer_blocks.{block}.{inner}"
            if name in known:
                found[f"joint_blocks.{block}.{original}"].append(name)
    return {original: OriginalLayer(tuple(layers), _is_swapped(original, known)) for original, layers in found.items()}


def _is_swapped(original: str, known: Collection[str]) -> bool:
    """Return whether diffusers has shift and scale of a layer in the other order: where they are all that it makes."""
    if not original.endswith(_SWAPPED):
        return original == _OUTSIDE["norm_out.linear"]
    return f"transformer_blocks.{original.split('.')[1]}.ff_context.net.2" not in known
