"""The scales of a LoRA's layers: alphas in tensors (kohya), PEFT's config in the metadata, or the ranks."""

import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from diffoundry.runtime.adapters.lora_names import layer_aliases
from diffoundry.runtime.adapters.peft_patterns import match_patterns
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.safetensors import Safetensors

__all__ = ["read_scales"]

_METADATA = "lora_adapter_metadata"
"""Key of PEFT's `LoraConfig` of each component, as written by diffusers from 0.34 on."""

_PEFT_ALPHA = 8
"""Default of PEFT's `lora_alpha`."""

Layer = tuple[str, str]
"""Component and layer."""


def read_scales(file: Safetensors, parts: Mapping[Layer, Mapping[str, str]]) -> tuple[dict[Layer, float], list[str]]:
    """Return layer to alpha / rank, and notes on the rules that the file left open.

    Args:
        file: The LoRA.
        parts: Component and layer to its tensors: "down", "up", and "alpha" where there is one.

    Raises:
        InputError: An alpha is no number, or the file has alphas in tensors and in its metadata.
    """
    ranks = {layer: (file.entries[names["down"]].shape or (1,))[0] or 1 for layer, names in parts.items()}
    components: dict[str, list[Layer]] = defaultdict(list)
    for layer in parts:
        components[layer[0]].append(layer)
    config = _read_config(file)
    stored = {layer: _read_scalar(file, names["alpha"]) for layer, names in parts.items() if "alpha" in names}
    if stored and config:
        raise InputError(
            f"LoRA {file.path}: got alphas in tensors such as {next(iter(stored))[1]}.alpha and in the metadata "
            f"{_METADATA!r}, expected one of them; save it again without the metadata"
        )
    scales: dict[Layer, float] = {}
    notes: list[str] = []
    for component, layers in components.items():
        own = {
            key.removeprefix(f"{component}."): value for key, value in config.items() if key.startswith(f"{component}.")
        }
        some = {layer: ranks[layer] for layer in layers}
        if own:
            alphas, more = _alphas_of_peft(file, component, own, some)
        else:
            alphas, more = _alphas_of_tensors(
                component, {layer: stored[layer] for layer in layers if layer in stored}, some
            )
        power = 0.5 if own.get("use_rslora") else 1
        scales |= {layer: float(alphas[layer] / ranks[layer] ** power) for layer in layers}
        notes += more
    return scales, notes


def _alphas_of_tensors(
    component: str, stored: Mapping[Layer, float], ranks: Mapping[Layer, int]
) -> tuple[Mapping[Layer, float], list[str]]:
    """Return the alphas of the file; diffusers gives the most frequent one to layers without.

    diffusers: `get_peft_kwargs`.
    """
    if not stored:
        found = sorted(set(ranks.values()))
        if len(found) == 1:
            return ranks, []
        note = (
            f"{component} has layers of the ranks {', '.join(map(str, found))} and no alphas: the alpha of each layer "
            f"is its rank, as in diffusers from 0.40 on; earlier versions took the first layer's rank for all"
        )
        return ranks, [note]
    if len(stored) == len(ranks):
        return stored, []
    alpha = Counter(stored.values()).most_common(1)[0][0]
    note = (
        f"{len(ranks) - len(stored)} of {len(ranks)} layers of {component} have no alpha: they get {alpha:g}, the most "
        f"frequent one, as in diffusers; kohya's programs take the rank of each"
    )
    return {layer: stored.get(layer, alpha) for layer in ranks}, [note]


def _alphas_of_peft(
    file: Safetensors, component: str, config: Mapping[str, Any], ranks: Mapping[Layer, int]
) -> tuple[Mapping[Layer, float], list[str]]:
    """Return the alphas of PEFT's config, whose patterns are regular expressions."""
    usual = _number(file, f"{component}.lora_alpha", config.get("lora_alpha", _PEFT_ALPHA))
    names = {layer: layer_aliases(layer) if component.startswith("text_encoder") else (layer,) for _, layer in ranks}
    notes: list[str] = []
    alphas: dict[str, float] = {}
    for key in ("alpha_pattern", "rank_pattern"):
        table = config.get(key) or {}
        if not isinstance(table, dict):
            raise InputError(f"LoRA {file.path}: metadata {component}.{key}: got {table!r:.80}, expected an object")
        numbers = {pattern: _number(file, f"{component}.{key}", value) for pattern, value in table.items()}
        found, unfitting = match_patterns(numbers, names, file.path)
        alphas = found if key == "alpha_pattern" else alphas
        notes += [f"{key} {pattern!r} fits no layer of {component} in this file" for pattern in unfitting]
    return {(part, layer): alphas.get(layer, usual) for part, layer in ranks}, notes


def _number(file: Safetensors, key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise InputError(f"LoRA {file.path}: metadata {key}: got {value!r:.80}, expected a number")
    return value


def _read_scalar(file: Safetensors, name: str) -> float:
    stored = file.stored(name)
    if stored.size != 1:
        raise InputError(f"LoRA {file.path}: tensor {name!r}: got shape {stored.shape}, expected one number")
    floating = file.entries[name].dtype.startswith(("F", "BF"))
    value = float((file.read(name) if floating else stored).reshape(()))
    if not math.isfinite(value):
        raise InputError(f"LoRA {file.path}: tensor {name!r}: got {value}, expected a finite number")
    return value


def _read_config(file: Safetensors) -> dict[str, Any]:
    text = file.metadata.get(_METADATA)
    if text is None:
        return {}
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"LoRA {file.path}: metadata {_METADATA!r} is no JSON; the file is damaged") from error
    if not isinstance(config, dict):
        raise InputError(f"LoRA {file.path}: metadata {_METADATA!r} is no object; the file is damaged")
    for key, value in config.items():
        if key.endswith("use_dora") and value:
            raise InputError(f"LoRA {file.path}: metadata {key!r} is true, but DoRA is not supported")
    return config
