"""Reads the names of tensors in LoRA files: component, layer and factor, in the common formats."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from diffoundry.runtime.formats.ldm_keys import ldm_unet_names
from diffoundry.runtime.models.roles import DENOISER_FOLDERS

__all__ = ["LayerNames", "TensorName", "parse_name"]

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

_KOHYA = {
    "lora_unet_": DENOISER_FOLDERS[0],
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}

_DOTTED = (*DENOISER_FOLDERS, "text_encoder", "text_encoder_2", "text_encoder_3", "prior")

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


def parse_name(name: str) -> TensorName | None:
    """Read a tensor's name; None when it names no component of any pipeline."""
    prefix = next((mark for mark in _KOHYA if name.startswith(mark)), None)
    if prefix is not None:
        component, rest = _KOHYA[prefix], name.removeprefix(prefix)
    else:
        component, _, rest = name.partition(".")
        if component not in _DOTTED:
            return None
    for ending, part in _FACTORS.items():
        if rest.endswith(ending):
            layer = rest.removesuffix(ending)
            if ending.startswith("_lora."):
                layer = _from_processor(component, layer)
            return TensorName(component=component, layer=layer.replace(".processor.", "."), part=part)
    return TensorName(component=component, layer=rest, part=None)


def _from_processor(component: str, layer: str) -> str:
    head, dot, last = layer.rpartition(".")
    if component.startswith("text_encoder"):
        last = _PROCESSOR.get(last, last)
    elif last == "to_out":
        last = "to_out.0"
    return f"{head}{dot}{last}"


class LayerNames:
    """Finds layers of one component by their names in files."""

    def __init__(self, layers: Iterable[str], config: Mapping[str, object]) -> None:
        """Learn the names.

        Args:
            layers: Of the component, by torch's names.
            config: Its config.json.
        """
        self._layers = set(layers)
        flat = {re.sub(r"\W", "_", layer): layer for layer in self._layers}
        per_block = config.get("layers_per_block")
        if isinstance(per_block, int):
            originals = ldm_unet_names(self._layers, per_block)
            flat |= {re.sub(r"\W", "_", original): layer for layer, original in originals.items()}
        self._flat = flat

    def find(self, layer: str) -> str | None:
        """Return the layer's name in torch, or None when the component has no such layer.

        transformers 5 dropped "text_model." from the names of a CLIP text encoder; files have it either way.
        """
        for name in (layer, layer.removeprefix("text_model."), f"text_model.{layer}"):
            if name in self._layers:
                return name
        for name in (layer, layer.removeprefix("text_model_"), f"text_model_{layer}"):
            if name in self._flat:
                return self._flat[name]
        return None
