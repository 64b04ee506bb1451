"""Names of the layers of FLUX.1's transformer in the original code, and in files that follow it.

Black Forest Labs 2024, https://github.com/black-forest-labs/flux, `flux/model.py`. diffusers:
`loaders.single_file_utils.convert_flux_transformer_checkpoint_to_diffusers`, the other way round.
"""

import re
from collections.abc import Collection

from diffoundry.runtime.formats.mmdit_keys import OriginalLayer
from diffoundry.runtime.formats.original_layers import Blocks, map_layers

__all__ = ["flux_layers", "original_norm"]

_OUTSIDE = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
"""Layers outside the blocks."""

_SWAPPED = "norm_out.linear"
"""diffusers has its scale before its shift."""

_BLOCKS: Blocks = {
    "transformer_blocks": (
        "double_blocks",
        {
            "norm1.linear": "img_mod.lin",
            "norm1_context.linear": "txt_mod.lin",
            "attn.to_q": "img_attn.qkv",
            "attn.to_k": "img_attn.qkv",
            "attn.to_v": "img_attn.qkv",
            "attn.to_out.0": "img_attn.proj",
            "attn.add_q_proj": "txt_attn.qkv",
            "attn.add_k_proj": "txt_attn.qkv",
            "attn.add_v_proj": "txt_attn.qkv",
            "attn.to_add_out": "txt_attn.proj",
            "ff.net.0.proj": "img_mlp.0",
            "ff.net.2": "img_mlp.2",
            "ff_context.net.0.proj": "txt_mlp.0",
            "ff_context.net.2": "txt_mlp.2",
        },
    ),
    "single_transformer_blocks": (
        "single_blocks",
        {
            "norm.linear": "modulation.lin",
            "attn.to_q": "linear1",
            "attn.to_k": "linear1",
            "attn.to_v": "linear1",
            "proj_mlp": "linear1",
            "proj_out": "linear2",
        },
    ),
    "distilled_guidance_layer.layers": (
        "distilled_guidance_layer.layers",
        {"linear_1": "in_layer", "linear_2": "out_layer"},
    ),
}
"""Kinds of blocks; the last is Chroma's, whose others are those of FLUX.1."""

_NORMS = {
    "transformer_blocks": {
        "attn.norm_q": "img_attn.norm.query_norm",
        "attn.norm_k": "img_attn.norm.key_norm",
        "attn.norm_added_q": "txt_attn.norm.query_norm",
        "attn.norm_added_k": "txt_attn.norm.key_norm",
    },
    "single_transformer_blocks": {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"},
}

_NAME = re.compile(r"(transformer_blocks|single_transformer_blocks)\.(\d+)\.(.+)")

_XLABS: Blocks = {
    "single_transformer_blocks": (
        "single_blocks",
        {"attn.to_q": "qkv", "attn.to_k": "qkv", "attn.to_v": "qkv", "proj_out": "proj"},
    ),
}
"""Layers of a single block in LoRAs of XLabs, which leave out the rows of the feed-forward layer."""


def flux_layers(names: Collection[str]) -> dict[str, OriginalLayer]:
    """Map names of original layers of FLUX.1 or Chroma to their layers of diffusers, and those of XLabs' single blocks.

    Args:
        names: Layers of diffusers.
    """
    found = map_layers(names, _OUTSIDE, _BLOCKS) | map_layers(names, {}, _XLABS)
    return {original: OriginalLayer(layers, _SWAPPED in layers) for original, layers in found.items()}


def original_norm(name: str) -> str | None:
    """Return the name of a normalization's scale in the original code; None for other layers."""
    match = _NAME.match(name)
    inner = match and _NORMS[match[1]].get(match[3])
    return f"{_BLOCKS[match[1]][0]}.{match[2]}.{inner}.scale" if match and inner else None
