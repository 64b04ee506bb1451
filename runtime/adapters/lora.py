"""Reads a LoRA file for one bundle: the two factors of every layer that it changes, scaled by its alphas."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.adapters.lora_names import LayerNames, TensorName, kind_of, parse_name
from diffoundry.runtime.adapters.lora_scales import read_scales
from diffoundry.runtime.bundle.specs import AdapterSpec
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.mmdit_keys import OriginalLayer
from diffoundry.runtime.formats.safetensors import Safetensors
from diffoundry.runtime.models.roles import DENOISER_FOLDERS

__all__ = ["Factors", "Host", "Lora", "join_factors", "read_lora"]

FloatArray = npt.NDArray[np.float32]


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
        notes: Sentences on what the file leaves open.
    """

    path: Path
    factors: Mapping[str, Mapping[str, Factors]]
    unused: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Layer:
    """The tensors of a file for one layer.

    Attributes:
        parts: Part to name.
        whole: The layers whose rows are joined in these tensors, this one among them.
        swapped: True if the two halves of its rows are in the other order.
    """

    parts: dict[str, str] = field(default_factory=dict)
    whole: tuple[str, ...] = ()
    swapped: bool = False


def read_lora(path: Path, hosts: Mapping[str, Host], present: Collection[str], without: Collection[str] = ()) -> Lora:
    """Read a LoRA of linear layers and convolutions, in fp32, fp16 or bf16, in any names of `lora_names`.

    diffusers: `StableDiffusionLoraLoaderMixin.lora_state_dict`, `utils.peft_utils.get_peft_kwargs`.

    Args:
        path: A safetensors file.
        hosts: Component to its layers.
        present: All components of the bundle; tensors for those without layers are ignored.
        without: Names of tensors that something else reads.

    Raises:
        InputError: It is no safetensors file, of a kind that is not supported (DoRA, LoHa, LoKr), or was trained for
            another model; the message names the first tensor that does not fit, and what the bundle has.
    """
    file = Safetensors(path)
    layers, unused = _sorted(file, hosts, present, without)
    if len(unused) == len(file.entries):
        raise InputError(
            f"LoRA {path}: got no tensor of a LoRA among {len(file.entries)}, expected names such as "
            f"'unet.....lora_A.weight' or 'lora_unet_....lora_down.weight'; this is another kind of file"
        )
    scales, notes = read_scales(file, {layer: found.parts for layer, found in layers.items()})
    factors: dict[str, dict[str, Factors]] = defaultdict(dict)
    for (component, layer), found in layers.items():
        shapes = hosts[component].layers
        rows = _rows(layer, found.whole, shapes)
        factors[component][layer] = _factors(file, found, shapes[layer], rows, scales[component, layer])
    return Lora(path=path, factors=dict(factors), unused=unused, notes=tuple(notes))


def join_factors(parts: Sequence[tuple[Factors, float]]) -> Factors:
    """Join several changes of one layer, each with a factor, to one of the sum of their ranks."""
    ups = [part.up if scale == 1 else part.up * np.float32(scale) for part, scale in parts]
    if len(parts) == 1:
        return Factors(down=parts[0][0].down, up=ups[0])
    return Factors(down=np.concatenate([part.down for part, _ in parts]), up=np.concatenate(ups, axis=1))


def _sorted(
    file: Safetensors, hosts: Mapping[str, Host], present: Collection[str], without: Collection[str]
) -> tuple[dict[tuple[str, str], _Layer], tuple[str, ...]]:
    """Return the tensors by component and layer, and the names of those that belong to no component."""
    names = {component: LayerNames(host.layers, host.config) for component, host in hosts.items()}
    denoiser = next((name for name in DENOISER_FOLDERS if name in present), DENOISER_FOLDERS[0])
    layers: dict[tuple[str, str], _Layer] = defaultdict(_Layer)
    unused = []
    for tensor in file:
        if tensor in without:
            continue
        said = parse_name(tensor, denoiser)
        if said is None:
            unused.append(tensor)
            continue
        if said.component in present and said.component not in hosts:
            continue
        if said.component in names and names[said.component].is_unread(said.layer):
            unused.append(tensor)
            continue
        place, part = _find(file, tensor, said, names, present), str(said.part)
        for layer in place.layers:
            found = layers[said.component, layer]
            if part in found.parts:
                raise InputError(
                    f"LoRA {file.path}: tensors {found.parts[part]!r} and {tensor!r} are both for {said.component} "
                    f"{layer}, expected one; the file mixes two formats"
                )
            found.parts[part] = tensor
            found.whole, found.swapped = place.layers, place.swapped
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
) -> OriginalLayer:
    if said.component not in names:
        raise InputError(
            f"LoRA {file.path}: tensor {tensor!r} is for a {said.component}, expected one for "
            f"{', '.join(names)} (the bundle has {', '.join(present)}); it was trained for another family"
        )
    if said.part is None:
        raise InputError(_describe_other_kind(file.path, tensor))
    place = names[said.component].find(said.layer)
    if place is None:
        raise InputError(
            f"LoRA {file.path}: tensor {tensor!r} is for a layer that the bundle's {said.component} does not have; "
            f"it was trained for another model"
        )
    return place


def _rows(layer: str, whole: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    """Return the first row of a layer in the joined ones, the first row after it, and the number of all."""
    first = 0
    for name in whole:
        if name == layer:
            break
        first += shapes[name][0]
    return first, first + shapes[layer][0], sum(shapes[name][0] for name in whole)


def _factors(
    file: Safetensors, found: _Layer, weight: tuple[int, ...], rows: tuple[int, int, int], scale: float
) -> Factors:
    names = found.parts["down"], found.parts["up"]
    shapes = [file.entries[name].shape for name in names]
    rank = shapes[0][0] if shapes[0] else 0
    for name, shape, expected in (
        (names[0], shapes[0], ("rank", *weight[1:])),
        (names[1], shapes[1], (rows[2], rank, *(1 for _ in weight[2:]))),
    ):
        if rank == 0 or shape != tuple(rank if size == "rank" else size for size in expected):
            raise InputError(
                f"LoRA {file.path}: tensor {name!r}: got shape {shape}, expected "
                f"({', '.join(map(str, expected))}) for a weight of {(rows[2], *weight[1:])} in the bundle; "
                f"it was trained for a model of another width"
            )
    factors = [file.read(name) for name in names]
    for name, values in zip(names, factors, strict=True):
        if not np.isfinite(values).all():
            raise InputError(f"LoRA {file.path}: tensor {name!r}: got numbers that are not finite; the file is damaged")
    down, up = factors[0], factors[1][rows[0] : rows[1]]
    if found.swapped:
        up = np.concatenate(np.split(up, 2)[::-1])
    return Factors(down=down, up=up * np.float32(scale))


def _describe_other_kind(path: Path, tensor: str) -> str:
    """Refuse a tensor that is no factor, and say what to do where diffusers can fuse such a file."""
    kind = kind_of(tensor)
    factors = "lora_A and lora_B, lora_down and lora_up, and alpha"
    if kind is None:
        return f"LoRA {path}: tensor {tensor!r} is no factor of a LoRA, expected {factors}"
    hint = (
        "; fuse it with diffusers (load_lora_weights, fuse_lora, unload_lora_weights, save_pretrained) and export that"
    )
    fusable = hint if ".lora_magnitude_vector" in tensor else ""
    if tensor.endswith(".lora_B.bias"):
        fusable = "; of FLUX.1 'export --lora' fuses them into the weights"
    return f"LoRA {path}: tensor {tensor!r} belongs to {kind}, which is not supported, expected {factors}{fusable}"
