"""Maps each weight of a network to a tensor in a single file: its name, and the change of layout.

diffusers: `loaders.single_file_utils`, the functions `convert_ldm_...` and `convert_open_clip_checkpoint`.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from diffoundry.exporter.component import Config
from diffoundry.runtime.formats.flux2_keys import flux2_weights
from diffoundry.runtime.formats.flux_keys import flux_layers, original_norm
from diffoundry.runtime.formats.ldm_keys import ldm_unet_names
from diffoundry.runtime.formats.mmdit_keys import OriginalLayer
from diffoundry.runtime.formats.z_image_keys import z_image_layers

__all__ = ["Place", "place_weights", "unused_in"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A weight's tensor in the file.

    Attributes:
        name: Name without the network's prefix.
        third: Third of its rows: 0, 1, 2 for fused query, key, value; None for all rows.
        rows: First of its rows and the one after the last, of joined layers; None for all rows.
        swapped: True if the two halves of its rows are in the other order.
        transposed: True if it is stored as (in, out).
        flattened: True if it may be stored as a convolution of one pixel, (out, in, 1, 1), for a linear layer.
    """

    name: str
    third: int | None = None
    rows: tuple[int, int] | None = None
    swapped: bool = False
    transposed: bool = False
    flattened: bool = False

    def extract(self, stored: Any) -> Any:
        """Extract the weight from a stored array or tensor; a view where possible."""
        if self.third is not None:
            rows = stored.shape[0] // 3
            return stored[self.third * rows : (self.third + 1) * rows]
        if self.rows is not None:
            return stored[self.rows[0] : self.rows[1]]
        if self.swapped:
            return stored.reshape(2, -1, *stored.shape[1:])[[1, 0]].reshape(stored.shape)
        if self.flattened and stored.ndim > 2 and set(stored.shape[2:]) == {1}:
            return stored.reshape(stored.shape[:2])
        return stored.T if self.transposed and stored.ndim == 2 else stored


def place_weights(layout: str, names: Collection[str], config: Config) -> dict[str, Place]:
    """Map weights to their places; a weight that the layout has no name for is left out.

    Args:
        layout: As in `FilePart`, or "clip_bare": "clip" without "text_model." in the names.
        names: All weights of the network, as in its torch module's state dict.
        config: Its config.json.
    """
    return _LAYOUTS[layout](names, config)


def unused_in(layout: str, name: str, config: Config) -> bool:
    """Return whether a tensor belongs to no weight but is known and harmless in checkpoints of this layout.

    Args:
        layout: As in `FilePart`.
        name: Name without the network's prefix.
        config: The network's config.json.
    """
    if layout == "open_clip":
        # Stable Diffusion 2 uses the last but one layer, so the config leaves the last one out.
        last = f"transformer.resblocks.{config.get('num_hidden_layers')}."
        return name in ("logit_scale", "attn_mask", "text_projection") or name.startswith(last)
    return name.startswith(_UNUSED[layout])


_UNUSED = {
    "unet": (),
    "controlnet": (),
    "flux": (),
    "flux_2": (),
    "z_image": ("norm_final.",),
    "vae": ("loss.", "model_ema."),
    "clip": ("text_model.embeddings.position_ids", "logit_scale", "text_projection."),
    "clip_bare": ("embeddings.position_ids", "logit_scale", "text_projection."),
}


def _place_unet(names: Collection[str], config: Config) -> dict[str, Place]:
    found = ldm_unet_names(names, int(config.get("layers_per_block", 2)))
    return {ours: Place(name=theirs) for ours, theirs in found.items()}


_VAE_INSIDE = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "conv_norm_out": "norm_out",
}
"""Modules of the VAE with other names in the original code (`ldm.modules.diffusionmodules.model`)."""

_VAE_PLACES = re.compile(
    r"(?P<half>encoder|decoder)\.(?:(?P<side>down|up)_blocks\.(?P<level>\d+)|mid_block)"
    r"\.(?:(?P<kind>resnets|attentions)\.(?P<index>\d+)\.)?(?P<rest>.+)"
)


def _place_vae(names: Collection[str], config: Config) -> dict[str, Place]:
    levels = len(config["block_out_channels"])
    return {
        name: Place(name=_vae_name(name, levels), flattened=".attentions." in name and name.endswith(".weight"))
        for name in names
    }


def _vae_name(name: str, levels: int) -> str:
    found = _VAE_PLACES.fullmatch(name)
    if found is None:
        half, _, rest = name.partition(".")
        return f"{half}.{_inside_vae(rest)}"
    half, rest, index = found["half"], _inside_vae(found["rest"]), int(found["index"] or 0)
    if found["side"] is None:
        return f"{half}.mid.{'attn' if found['kind'] == 'attentions' else 'block'}_{index + 1}.{rest}"
    level = int(found["level"])
    place = f"{half}.{found['side']}.{level if found['side'] == 'down' else levels - 1 - level}"
    return f"{place}.block.{index}.{rest}" if found["kind"] else f"{place}.{rest}"


def _inside_vae(rest: str) -> str:
    for ours, theirs in _VAE_INSIDE.items():
        if rest.startswith(f"{ours}."):
            return theirs + rest.removeprefix(ours)
    return rest


def _place_clip(names: Collection[str], _config: Config) -> dict[str, Place]:
    """Map to the names of older transformers versions, in which every model held its encoder as `text_model`."""
    return {
        name: Place(name=name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}")
        for name in names
    }


def _place_bare_clip(names: Collection[str], _config: Config) -> dict[str, Place]:
    """Map to names without "text_model.", as merges have them that were made with other code."""
    return {name: Place(name=name.removeprefix("text_model.")) for name in names}


_OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}

_OPEN_CLIP_LAYER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}

_THIRDS = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}


def _place_open_clip(names: Collection[str], _config: Config) -> dict[str, Place]:
    """Map to the names of https://github.com/mlfoundations/open_clip, `open_clip.transformer`."""
    found = {name: _open_clip_place(name.removeprefix("text_model.")) for name in names}
    return {name: place for name, place in found.items() if place is not None}


def _open_clip_place(name: str) -> Place | None:
    if name == "text_projection.weight":
        return Place(name="text_projection", transposed=True)
    if name in _OPEN_CLIP:
        return Place(name=_OPEN_CLIP[name])
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if match is None:
        return None
    layer, module, kind = match.groups()
    block = f"transformer.resblocks.{layer}"
    if module in _THIRDS:
        return Place(name=f"{block}.attn.in_proj_{kind}", third=_THIRDS[module])
    if module == "self_attn.out_proj":
        return Place(name=f"{block}.attn.out_proj.{kind}")
    return Place(name=f"{block}.{_OPEN_CLIP_LAYER[module]}.{kind}") if module in _OPEN_CLIP_LAYER else None


_CONTROLNET_BLOCKS = re.compile(r"controlnet_cond_embedding\.blocks\.(\d+)\.(.+)")


def _place_controlnet(names: Collection[str], config: Config) -> dict[str, Place]:
    """Map to the names of https://github.com/lllyasviel/ControlNet, `cldm.cldm.ControlNet`."""
    hints = 2 * len(config["conditioning_embedding_out_channels"]) - 2  # convolutions between the first and the last
    outside = {
        "controlnet_mid_block": "middle_block_out.0",
        "controlnet_cond_embedding.conv_in": "input_hint_block.0",
        "controlnet_cond_embedding.conv_out": f"input_hint_block.{2 + 2 * hints}",
    }
    found = ldm_unet_names(names, int(config.get("layers_per_block", 2)))
    for name in names:
        module, _, kind = name.rpartition(".")
        block = _CONTROLNET_BLOCKS.fullmatch(name)
        if module in outside:
            found[name] = f"{outside[module]}.{kind}"
        elif block is not None:
            found[name] = f"input_hint_block.{2 + 2 * int(block[1])}.{block[2]}"
        elif name.startswith("controlnet_down_blocks."):
            found[name] = f"zero_convs.{name.split('.')[1]}.0.{kind}"
    return {ours: Place(name=theirs) for ours, theirs in found.items()}


def _place_flux(names: Collection[str], config: Config) -> dict[str, Place]:
    """Map to the names of https://github.com/black-forest-labs/flux."""
    width = config["attention_head_dim"] * config["num_attention_heads"]
    layers = {name.rpartition(".")[0] for name in names}
    known = {
        original: joined
        for original, joined in flux_layers(layers).items()
        if not (original.endswith((".qkv", ".proj")) and original.startswith("single"))
    }
    return _place_norms(layers) | _place_joined(names, known, width)


def _place_flux_2(names: Collection[str], config: Config) -> dict[str, Place]:
    """Map to the names of https://github.com/black-forest-labs/flux2."""
    layers = {name.rpartition(".")[0] for name in names}
    width = config["attention_head_dim"] * config["num_attention_heads"]
    return _place_norms(layers) | _place_joined(names, flux2_weights(layers), width)


def _place_norms(layers: Collection[str]) -> dict[str, Place]:
    """Map the scales of normalizations of FLUX to their places."""
    norms = {layer: original_norm(layer) for layer in layers}
    return {f"{layer}.weight": Place(name=norm) for layer, norm in norms.items() if norm is not None}


def _place_joined(names: Collection[str], layers: Mapping[str, OriginalLayer], width: int) -> dict[str, Place]:
    """Map weights and biases to places in original layers, of which several are one joined layer.

    Args:
        names: All weights of the network.
        layers: Original name to its layers.
        width: Rows of a layer that is joined with others, but for FLUX.1's four times as wide `proj_mlp`.
    """
    found = {}
    for original, joined in layers.items():
        first = 0
        for layer in joined.layers:
            last = first + (4 * width if layer.endswith(".proj_mlp") else width)
            rows = (first, last) if len(joined.layers) > 1 else None
            first = last
            for kind in ("weight", "bias"):
                if f"{layer}.{kind}" in names:
                    found[f"{layer}.{kind}"] = Place(name=f"{original}.{kind}", rows=rows, swapped=joined.swapped)
    return found


_Z_IMAGE_NORMS = {"attention.norm_q": "attention.q_norm", "attention.norm_k": "attention.k_norm"}


def _place_z_image(names: Collection[str], config: Config) -> dict[str, Place]:
    """Map to the names of https://github.com/Tongyi-MAI/Z-Image, which are diffusers' for most weights."""
    width = int(config["dim"])
    found = {name: Place(name=name) for name in names}
    for name in names:
        for ours, theirs in _Z_IMAGE_NORMS.items():
            if f".{ours}." in name:
                found[name] = Place(name=name.replace(ours, theirs))
    return found | _place_joined(names, z_image_layers({name.rpartition(".")[0] for name in names}), width)


_LAYOUTS: Mapping[str, Callable[[Collection[str], Config], dict[str, Place]]] = {
    "unet": _place_unet,
    "vae": _place_vae,
    "controlnet": _place_controlnet,
    "clip": _place_clip,
    "clip_bare": _place_bare_clip,
    "open_clip": _place_open_clip,
    "flux": _place_flux,
    "flux_2": _place_flux_2,
    "z_image": _place_z_image,
}
