"""Reads a LoRA file for one bundle: the two factors of every layer that it changes, scaled by its alphas."""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.adapters.lora_names import LayerNames, TensorName, parse_name
from diffoundry.runtime.bundle.specs import AdapterSpec
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.safetensors import Safetensors

__all__ = ["Factors", "Host", "Lora", "join_factors", "read_lora"]

FloatArray = npt.NDArray[np.float32]

_METADATA = "lora_adapter_metadata"
"""Key of PEFT's `LoraConfig` of each component, as written by diffusers from 0.34 on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors:
    """The change of one layer: W' = W + up down, Hu et al. 2021, https://arxiv.org/abs/2106.09685, equation 3.

    Attributes:
        down: float32, (rank, in), or (rank, in, h, w) of a convolution; PEFT's lora_A.
        up: float32, (out, rank), or (out, rank, 1, 1), with alpha / rank in it; PEFT's lora_B.
    """

    down: FloatArray
    up: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """The layers of a component that take LoRAs.

    Attributes:
        layers: Layer to the shape of its weight in torch.
        config: The component's config.json.
    """

    layers: Mapping[str, tuple[int, ...]]
    config: Mapping[str, Any]

    @classmethod
    def of(cls, spec: AdapterSpec, config: Mapping[str, Any]) -> "Host":
        """Read the layers from the manifest entry of an engine."""
        return cls(layers=spec.layers, config=config)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """The changes of a file to a bundle.

    Attributes:
        path: The file.
        factors: Component to layer to change.
        unused: Names of the tensors that belong to no component of any pipeline.
    """

    path: Path
    factors: Mapping[str, Mapping[str, Factors]]
    unused: tuple[str, ...]


@dataclass(slots=True)
class _Layer:
    """The tensors of a file for one layer: part to name."""

    parts: dict[str, str] = field(default_factory=dict)


def read_lora(path: Path, hosts: Mapping[str, Host], present: Collection[str]) -> Lora:
    """Read a LoRA: PEFT's, diffusers' or kohya's names, in fp32, fp16 or bf16, of linear layers and convolutions.

    diffusers: `StableDiffusionLoraLoaderMixin.lora_state_dict`, `utils.peft_utils.get_peft_kwargs`.

    Args:
        path: A safetensors file.
        hosts: Component to its layers.
        present: All components of the bundle; tensors for those without layers are ignored.

    Raises:
        InputError: It is no safetensors file, of a kind that is not supported (DoRA, LoHa, LoKr), or was trained for
            another model; the message names the first tensor that does not fit, and what the bundle has.
    """
    file = Safetensors(path)
    layers, unused = _sorted(file, hosts, present)
    if len(unused) == len(file.entries):
        raise InputError(
            f"LoRA {path}: got no tensor of a LoRA among {len(file.entries)}, expected names such as "
            f"'unet.....lora_A.weight' or 'lora_unet_....lora_down.weight'; this is another kind of file"
        )
    scales = _Scales(file, layers)
    factors: dict[str, dict[str, Factors]] = defaultdict(dict)
    for (component, layer), found in layers.items():
        factors[component][layer] = _factors(file, found, hosts[component].layers[layer], scales.of(component, layer))
    return Lora(path=path, factors=dict(factors), unused=unused)


def join_factors(parts: Sequence[tuple[Factors, float]]) -> Factors:
    """Join several changes of one layer, each with a factor, to one of the sum of their ranks."""
    ups = [part.up if scale == 1 else part.up * np.float32(scale) for part, scale in parts]
    if len(parts) == 1:
        return Factors(down=parts[0][0].down, up=ups[0])
    return Factors(down=np.concatenate([part.down for part, _ in parts]), up=np.concatenate(ups, axis=1))


def _sorted(
    file: Safetensors, hosts: Mapping[str, Host], present: Collection[str]
) -> tuple[dict[tuple[str, str], _Layer], tuple[str, ...]]:
    """Return the tensors by component and layer, and the names of those that belong to no component."""
    names = {component: LayerNames(host.layers, host.config) for component, host in hosts.items()}
    layers: dict[tuple[str, str], _Layer] = defaultdict(_Layer)
    unused = []
    for tensor in file:
        said = parse_name(tensor)
        if said is None:
            unused.append(tensor)
            continue
        if said.component in present and said.component not in hosts:
            continue
        layer = _find(file, tensor, said, names, present)
        part = str(said.part)
        parts = layers[said.component, layer].parts
        if part in parts:
            raise InputError(
                f"LoRA {file.path}: tensors {parts[part]!r} and {tensor!r} are both for {said.component} {layer}, "
                f"expected one; the file mixes two formats"
            )
        parts[part] = tensor
    for (component, layer), found in layers.items():
        missing = {"down", "up"} - found.parts.keys()
        if missing:
            raise InputError(
                f"LoRA {file.path}: layer {layer} of {component} has no {missing.pop()} factor beside "
                f"{next(iter(found.parts.values()))!r}, expected both; the file is incomplete"
            )
    return dict(layers), tuple(unused)


def _find(
    file: Safetensors, tensor: str, said: TensorName, names: Mapping[str, LayerNames], present: Collection[str]
) -> str:
    if said.component not in names:
        raise InputError(
            f"LoRA {file.path}: tensor {tensor!r} is for a {said.component}, expected one for "
            f"{', '.join(names)} (the bundle has {', '.join(present)}); it was trained for another family"
        )
    if said.part is None:
        raise InputError(
            f"LoRA {file.path}: tensor {tensor!r} is no factor of a LoRA, expected lora_A and lora_B, lora_down and "
            f"lora_up, and alpha; DoRA, LoHa, LoKr and other kinds are not supported"
        )
    layer = names[said.component].find(said.layer)
    if layer is None:
        raise InputError(
            f"LoRA {file.path}: tensor {tensor!r} is for a layer that the bundle's {said.component} does not have; "
            f"it was trained for another model"
        )
    return layer


def _factors(file: Safetensors, found: _Layer, weight: tuple[int, ...], scale: float) -> Factors:
    names = found.parts["down"], found.parts["up"]
    down, up = (file.entries[name].shape for name in names)
    rank = down[0] if down else 0
    for name, shape, expected in (
        (names[0], down, ("rank", *weight[1:])),
        (names[1], up, (weight[0], rank, *(1 for _ in weight[2:]))),
    ):
        if rank == 0 or shape != tuple(rank if size == "rank" else size for size in expected):
            raise InputError(
                f"LoRA {file.path}: tensor {name!r}: got shape {shape}, expected "
                f"({', '.join(map(str, expected))}) for a weight of {weight} in the bundle; "
                f"it was trained for a model of another width"
            )
    return Factors(down=file.read(names[0]), up=file.read(names[1]) * np.float32(scale))


class _Scales:
    """alpha / rank of each layer: from tensors (kohya), from PEFT's config in the metadata, or 1."""

    def __init__(self, file: Safetensors, layers: Mapping[tuple[str, str], _Layer]) -> None:
        self._file, self._layers = file, layers
        self._config = _read_config(file)
        with_alpha = sum("alpha" in found.parts for found in layers.values())
        if with_alpha and (self._config or with_alpha < len(layers)):
            lacking = next((layer for (_, layer), found in layers.items() if "alpha" not in found.parts), None)
            what = f"layer {lacking} has none" if lacking else f"the metadata {_METADATA!r} has others"
            raise InputError(
                f"LoRA {file.path}: got alphas for {with_alpha} of {len(layers)} layers, but {what}; what such a file "
                f"means differs from program to program, save it again with all of them or none"
            )

    def of(self, component: str, layer: str) -> float:
        parts = self._layers[component, layer].parts
        rank = self._file.entries[parts["down"]].shape[:1] or (1,)
        if "alpha" in parts:
            return float(self._scalar(parts["alpha"])) / max(rank[0], 1)
        config = {key.removeprefix(f"{component}."): value for key, value in self._config.items()}
        alpha = _pattern(config.get("alpha_pattern"), layer, config.get("lora_alpha", rank[0]))
        if not isinstance(alpha, int | float):
            raise InputError(f"LoRA {self._file.path}: metadata lora_alpha: got {alpha!r}, expected a number")
        return float(alpha / max(rank[0], 1) ** (0.5 if config.get("use_rslora") else 1))

    def _scalar(self, name: str) -> float:
        stored = self._file.stored(name)
        if stored.size != 1:
            raise InputError(f"LoRA {self._file.path}: tensor {name!r}: got shape {stored.shape}, expected one number")
        floating = self._file.entries[name].dtype.startswith(("F", "BF"))
        return float((self._file.read(name) if floating else stored).reshape(()))


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


def _pattern(table: Any, layer: str, default: Any) -> Any:
    """Return the entry of PEFT's `alpha_pattern` for a layer: a name, or its end; `^` requires the whole name."""
    for key, value in table.items() if isinstance(table, dict) else ():
        name = key.removeprefix("^")
        if layer == name or (name == key and layer.endswith(f".{name}")):
            return value
    return default
