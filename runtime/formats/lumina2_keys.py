"""Names of the layers of Lumina-Image 2.0's transformer in the original code, and in files that follow it.

Alpha-VLLM 2025, https://github.com/Alpha-VLLM/Lumina-Image-2.0, `models/model.py`. diffusers:
`loaders.single_file_utils.convert_lumina2_to_diffusers` and
`loaders.lora_conversion_utils._convert_non_diffusers_lumina2_lora_to_diffusers`, the other way round.
"""

from collections.abc import Collection

from diffoundry.runtime.formats.mmdit_keys import OriginalLayer
from diffoundry.runtime.formats.original_layers import map_layers

__all__ = ["lumina2_layers"]

_OUTSIDE = {
    "time_caption_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_caption_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_caption_embed.caption_embedder.1": "cap_embedder.1",
    "norm_out.linear_1": "final_layer.adaLN_modulation.1",
    "norm_out.linear_2": "final_layer.linear",
}
"""Layers outside the blocks whose names differ."""

_BLOCK = {
    "attn.to_q": "attention.qkv",
    "attn.to_k": "attention.qkv",
    "attn.to_v": "attention.qkv",
    "attn.to_out.0": "attention.out",
    "feed_forward.linear_1": "feed_forward.w1",
    "feed_forward.linear_2": "feed_forward.w2",
    "feed_forward.linear_3": "feed_forward.w3",
    "norm1.linear": "adaLN_modulation.1",
}

_KINDS = ("noise_refiner", "context_refiner", "layers")


def lumina2_layers(names: Collection[str]) -> dict[str, OriginalLayer]:
    """Map names of original layers to their layers of diffusers, where the two differ.

    Args:
        names: Layers of diffusers.
    """
    found = map_layers(names, _OUTSIDE, {kind: (kind, _BLOCK) for kind in _KINDS})
    return {original: OriginalLayer(layers) for original, layers in found.items()}
