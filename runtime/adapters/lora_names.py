"""Reads the names of tensors in LoRA files: component, layer and factor, in the common formats."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from diffoundry.runtime.formats.flux2_keys import flux2_layers
from diffoundry.runtime.formats.flux_keys import flux_layers
from diffoundry.runtime.formats.ldm_keys import ldm_unet_names
from diffoundry.runtime.formats.lumina2_keys import lumina2_layers
from diffoundry.runtime.formats.mmdit_keys import OriginalLayer, mmdit_layers
from diffoundry.runtime.formats.qwen_image_keys import unread_layers
from diffoundry.runtime.formats.z_image_keys import z_image_layers
from diffoundry.runtime.models.roles import DENOISER_FOLDERS

__all__ = ["LayerNames", "TensorName", "kind_of", "layer_aliases", "parse_name"]

_FACTORS = {
    ".lora_A.weight": "down",  # PEFT
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",  # diffusers until 0.20
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",  # diffusers' attention processors
    "_lora.up.weight": "up",
    ".lora_down.weight": "down",  # kohya
    ".lora_up.weight": "up",
    ".alpha": "alpha",
}
"""End of a tensor's name to its part: the factor next to the input ("down"), next to the output ("up"), or alpha."""

_ADAPTER = re.compile(r"\.(lora_[AB])\.[^.]+\.weight$")
"""The end of PEFT's names while a model holds them: the adapter's name comes before ".weight"."""

_KINDS = (
    (r"\.(dora_scale|lora_magnitude_vector)\b", "DoRA, which also rescales the weight"),
    (r"\.lora_B\.(.*\.)?bias$", "a LoRA with biases"),
    (r"\.hada_", "LoHa"),
    (r"\.lokr_", "LoKr"),
    (r"\.lora_mid\b", "LoCon with Tucker factors"),
    (r"\.oft_", "OFT"),
    (r"\.(on_input|ia3_l)\b", "(IA)3"),
    (r"\.(diff|diff_b|w_norm|b_norm)$", "an adapter with whole weights"),
)
"""Expressions of names, and the kind of adapter that has them."""

_DENOISER = "denoiser"
"""The UNet or the transformer, whichever the bundle has."""

_FLAT = {
    "lora_unet_": _DENOISER,
    "lora_transformer_": "transformer",  # OneTrainer
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
}
"""Prefixes of kohya, whose names have underscores throughout."""

_TEXT_ENCODERS = {
    "clip_l": "text_encoder", "clip_h": "text_encoder", "clip_g": "text_encoder_2", "t5xxl": "text_encoder_3"
}  # fmt: skip

_DOTTED = {
    "model.diffusion_model.": _DENOISER,  # the original checkpoints
    "diffusion_model.": _DENOISER,  # ComfyUI
    "base_model.model.": _DENOISER,  # PEFT's own `save_pretrained`
    **{
        f"{before}{name}.{after}": component  # ComfyUI and OneTrainer
        for before in ("text_encoders.", "")
        for name, component in _TEXT_ENCODERS.items()
        for after in ("transformer.", "")
    },
    **{f"{name}.": name for name in (*DENOISER_FOLDERS, "text_encoder", "text_encoder_2", "text_encoder_3", "prior")},
}
"""Prefixes of the others to components; longer ones come first."""

_BARE = (
    "double_blocks.", "single_blocks.", "img_in.", "txt_in.", "time_in.", "vector_in.", "guidance_in.", "final_layer.",
    "layers.", "noise_refiner.", "context_refiner.", "cap_embedder.", "x_embedder.", "t_embedder.",
    "transformer_blocks.", "time_text_embed.", "norm_out.", "proj_out.",
)  # fmt: skip
"""Modules of FLUX.1, Z-Image and Qwen-Image in the original code, which some LoRAs name without a prefix."""

_XLABS = re.compile(r"\.processor\.(qkv|proj)_lora([12])\.")
"""XLabs' layers of a double block: 1 of image, 2 of text. diffusers: `_convert_xlabs_flux_lora_to_diffusers`."""

_ORIGINALS = {
    "SD3Transformer2DModel": mmdit_layers,
    "FluxTransformer2DModel": flux_layers,
    "ChromaTransformer2DModel": flux_layers,
    "Flux2Transformer2DModel": flux2_layers,
    "Lumina2Transformer2DModel": lumina2_layers,
    "ZImageTransformer2DModel": z_image_layers,
}
"""Class of a transformer to the function that maps its original names."""

_UNREAD = {"QwenImageTransformer2DModel": unread_layers}
"""Class of a transformer to the function that returns the layers that its output does not depend on."""

_PROCESSOR = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""Names of a text encoder's layers in attention processors. diffusers: `DIFFUSERS_OLD_TO_PEFT`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorName:
    """The meaning of a tensor's name.

    Attributes:
        component: Name of the component.
        layer: In the file's own spelling.
        part: "down", "up", "alpha", or None for any other tensor.
    """

    component: str
    layer: str
    part: str | None


def parse_name(name: str, denoiser: str = DENOISER_FOLDERS[0]) -> TensorName | None:
    """Read a tensor's name; None when it names no component of any pipeline.

    Args:
        name: In the file.
        denoiser: Name of the bundle's denoiser, which some formats do not tell from others.
    """
    prefix = next((mark for mark in (*_FLAT, *_DOTTED) if name.startswith(mark)), None)
    if prefix is None and not name.startswith(_BARE):
        return None
    component = _DENOISER if prefix is None else _FLAT.get(prefix) or _DOTTED[prefix]
    component, prefix = denoiser if component == _DENOISER else component, prefix or ""
    name = _XLABS.sub(lambda found: f".{'img' if found[2] == '1' else 'txt'}_attn.{found[1]}_lora.", name)
    rest = _ADAPTER.sub(r".\1.weight", f".{name.removeprefix(prefix)}")[1:]
    for ending, part in _FACTORS.items():
        if rest.endswith(ending):
            layer = rest.removesuffix(ending)
            if ending.startswith("_lora."):
                layer = _from_processor(component, layer)
            return TensorName(component=component, layer=layer.replace(".processor.", "."), part=part)
    return TensorName(component=component, layer=rest, part=None)


def kind_of(name: str) -> str | None:
    """Return the kind of adapter that a tensor belongs to which is no factor of a LoRA; None for an unknown one."""
    return next((kind for expression, kind in _KINDS if re.search(expression, name)), None)


def _from_processor(component: str, layer: str) -> str:
    head, dot, last = layer.rpartition(".")
    if component.startswith("text_encoder"):
        last = _PROCESSOR.get(last, last)
    elif last == "to_out":
        last = "to_out.0"
    return f"{head}{dot}{last}"


def layer_aliases(layer: str) -> tuple[str, ...]:
    """Return the names of a layer: transformers 5 dropped "text_model." from those of a CLIP text encoder."""
    bare = layer.removeprefix("text_model.")
    return (layer, bare if bare != layer else f"text_model.{layer}")


class LayerNames:
    """Finds layers of one component by their names in files."""

    def __init__(self, layers: Iterable[str], config: Mapping[str, object]) -> None:
        """Learn the names.

        Args:
            layers: Of the component, by torch's names.
            config: Its config.json.
        """
        self._layers = set(layers)
        flat = {_flattened(layer): OriginalLayer((layer,)) for layer in self._layers}
        per_block = config.get("layers_per_block")
        if isinstance(per_block, int):
            originals = ldm_unet_names(self._layers, per_block)
            flat |= {_flattened(original): OriginalLayer((layer,)) for layer, original in originals.items()}
        if (layers_of := _ORIGINALS.get(str(config.get("_class_name")))) is not None:
            flat |= {_flattened(name): found for name, found in layers_of(self._layers).items() if name not in flat}
        self._flat = flat
        unread = _UNREAD.get(str(config.get("_class_name")), lambda _config: ())
        self._unread = {_flattened(layer) for layer in unread(config)} - flat.keys()

    def is_unread(self, layer: str) -> bool:
        """Return whether the network has this layer, but computes its output without it."""
        return _flattened(layer) in self._unread

    def find(self, layer: str) -> OriginalLayer | None:
        """Return the layers by torch's names that a file's layer is for, or None when the component has no such layer.

        Files name layers as diffusers or as the original code does, with dots or with underscores. The original code
        of transformers has one layer for queries, keys and values.
        """
        for name in layer_aliases(layer):
            if name in self._layers:
                return OriginalLayer((name,))
        flat = _flattened(layer)
        names = (flat, flat.removeprefix("text_model_"), f"text_model_{flat}")
        return next((self._flat[name] for name in names if name in self._flat), None)


def _flattened(name: str) -> str:
    return re.sub(r"\W", "_", name)
