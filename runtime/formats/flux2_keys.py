"""Names of the layers of FLUX.2's transformer in the original code, and in files that follow it.

Black Forest Labs 2025, https://github.com/black-forest-labs/flux2, `flux2/model.py`. diffusers:
`loaders.single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers` and
`loaders.lora_conversion_utils._convert_non_diffusers_flux2_lora_to_diffusers`, the other way round.
"""

from collections.abc import Collection

from diffoundry.runtime.formats.mmdit_keys import OriginalLayer
from diffoundry.runtime.formats.original_layers import Blocks, map_layers

__all__ = ["flux2_layers", "flux2_weights"]

_OUTSIDE = {
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
"""Layers outside the blocks."""

_SWAPPED = "norm_out.linear"
"""diffusers has its scale before its shift; its own conversion of LoRAs, unlike that of weights, leaves them so."""

_BLOCKS: Blocks = {
    "transformer_blocks": (
        "double_blocks",
        {
            "attn.to_q": "img_attn.qkv",
            "attn.to_k": "img_attn.qkv",
            "attn.to_v": "img_attn.qkv",
            "attn.to_out.0": "img_attn.proj",
            "attn.add_q_proj": "txt_attn.qkv",
            "attn.add_k_proj": "txt_attn.qkv",
            "attn.add_v_proj": "txt_attn.qkv",
            "attn.to_add_out": "txt_attn.proj",
            "ff.linear_in": "img_mlp.0",
            "ff.linear_out": "img_mlp.2",
            "ff_context.linear_in": "txt_mlp.0",
            "ff_context.linear_out": "txt_mlp.2",
        },
    ),
    "single_transformer_blocks": (
        "single_blocks",
        {"attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2"},
    ),
}

_DOUBLE, _CUT = "transformer_blocks.", "sformer_blocks."
"""Beginning of the names of layers of double blocks, and as some trainers write it."""


def flux2_weights(names: Collection[str]) -> dict[str, OriginalLayer]:
    """Map names of original layers to their layers of diffusers.

    Args:
        names: Layers of diffusers.
    """
    found = map_layers(names, _OUTSIDE, _BLOCKS)
    return {original: OriginalLayer(layers, _SWAPPED in layers) for original, layers in found.items()}


def flux2_layers(names: Collection[str]) -> dict[str, OriginalLayer]:
    """Map names of layers in LoRAs to their layers of diffusers: `flux2_weights`, and names that some trainers cut.

    Args:
        names: Layers of diffusers.
    """
    cut = {_CUT + name.removeprefix(_DOUBLE): OriginalLayer((name,)) for name in names if name.startswith(_DOUBLE)}
    return flux2_weights(names) | cut
