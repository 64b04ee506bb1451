"""Control LoRAs of FLUX.1: the transformer with a wider first layer that they need, their biases and their norms.

Black Forest Labs 2024, FLUX.1-Depth-dev-lora and FLUX.1-Canny-dev-lora. diffusers: `FluxLoraLoaderMixin`.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.exporter.checkpoints.weight_sources import WeightSource
from diffoundry.exporter.component import Config
from diffoundry.exporter.configs.assemble import scratch_folder
from diffoundry.runtime.adapters.lora import FloatArray, Host
from diffoundry.runtime.adapters.lora_names import LayerNames, parse_name
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.formats.flux_keys import original_norm
from diffoundry.runtime.formats.safetensors import Safetensors

if TYPE_CHECKING:  # as in weight_sources
    import torch

__all__ = ["CONTROL_CLASSES", "ControlParts", "ControlWeights", "is_control_lora", "norm_lengths", "read_control_parts"]

CONTROL_CLASSES = {
    "FluxPipeline": "FluxControlPipeline",
    "FluxImg2ImgPipeline": "FluxControlImg2ImgPipeline",
    "FluxInpaintPipeline": "FluxControlInpaintPipeline",
}
"""Pipeline class of a checkpoint to the one with a Control LoRA."""

_TRANSFORMER = "transformer"

_FIRST = ("x_embedder", "img_in")
"""Names of the first layer, in diffusers and in the original code."""

_BIAS, _WEIGHT = ".lora_B.bias", ".weight"
_NORM = re.compile(r"(norm_q|norm_k|norm_added_q|norm_added_k)\.weight|(query|key)_norm\.scale")


def is_control_lora(path: Path, config: Config) -> bool:
    """Return whether a LoRA is for a first layer of twice the channels, which also takes a control image.

    Args:
        path: A safetensors file.
        config: config.json of the transformer.
    """
    channels = integer(config, "in_channels", 64, subject=f"{_TRANSFORMER}/config.json")
    file = Safetensors(path)
    for tensor in file:
        said = parse_name(tensor, _TRANSFORMER)
        if said is not None and (said.component, said.part) == (_TRANSFORMER, "down") and said.layer in _FIRST:
            return file.entries[tensor].shape[1:] == (2 * channels,)
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlWeights:
    """A transformer whose first layer takes a control image beside the latents, with zeros for its weights.

    diffusers: `FluxLoraLoaderMixin._maybe_expand_transformer_param_shape_or_error_`.

    Attributes:
        folder: Folder with config.json of the wider network.
        base: Weights of the network as it was.
    """

    folder: Path
    base: WeightSource

    @classmethod
    def of(cls, base: WeightSource) -> "ControlWeights":
        """Write the config of the wider network."""
        config = read_json(base.folder / "config.json")
        channels = integer(config, "in_channels", 64, subject=f"{_TRANSFORMER}/config.json")
        made = config.get("out_channels") or channels
        folder = Path(tempfile.mkdtemp(dir=scratch_folder())) / _TRANSFORMER
        folder.mkdir()
        changed = {**config, "in_channels": 2 * channels, "out_channels": made}
        (folder / "config.json").write_text(json.dumps(changed, indent=2) + "\n", encoding="utf-8")
        return cls(folder=folder, base=base)

    def load(self, module_class: str, *, deferred: bool = False) -> "torch.nn.Module":
        """See `WeightSource.load`."""
        import torch

        from diffoundry.exporter.checkpoints.deferred_weights import deferred_weights

        module = cast("Any", self.base.load(module_class, deferred=deferred))
        weight = deferred_weights(module).read(module.x_embedder.weight)
        wide = torch.cat([weight, torch.zeros_like(weight)], dim=1)
        module.x_embedder.weight = torch.nn.Parameter(wide, requires_grad=False)
        module.x_embedder.in_features = wide.shape[1]
        config = read_json(self.folder / "config.json")
        module.register_to_config(in_channels=config["in_channels"], out_channels=config["out_channels"])
        return cast("torch.nn.Module", module)

    def files(self) -> Mapping[str, Path]:
        """See `WeightSource.files`."""
        return self.base.files()

    def notices(self, name: str) -> list[str]:
        """See `WeightSource.notices`."""
        return self.base.notices(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlParts:
    """The tensors of a Control LoRA that are no factors.

    Attributes:
        biases: Layer to what is added to its bias.
        norms: Weight of a norm to what replaces it.
        tensors: Names in the file.
    """

    biases: Mapping[str, FloatArray] = field(default_factory=dict)
    norms: Mapping[str, FloatArray] = field(default_factory=dict)
    tensors: frozenset[str] = frozenset()


def norm_lengths(module: "torch.nn.Module") -> dict[str, int]:
    """Map the weight of each norm of a transformer's attentions, by torch's name, to its length."""
    return {name: len(weight) for name, weight in module.named_parameters() if _NORM.search(name)}


def read_control_parts(path: Path, host: Host, norms: Mapping[str, int]) -> ControlParts:
    """Read biases and norms of a Control LoRA.

    Args:
        path: The file.
        host: Linear layers of the transformer.
        norms: Weight of each norm of its attentions, by torch's name, to its length.

    Raises:
        InputError: One is for a layer that the transformer does not have, or of another length.
    """
    file, names = Safetensors(path), LayerNames(host.layers, host.config)
    known = {f"{original_norm(name.removesuffix(_WEIGHT))}": name for name in norms} | {name: name for name in norms}
    biases: dict[str, FloatArray] = {}
    replaced: dict[str, FloatArray] = {}
    taken = []
    for tensor in file:
        bare = tensor.removeprefix(f"{_TRANSFORMER}.")
        if bare.endswith(_BIAS):
            place = names.find(bare.removesuffix(_BIAS))
            lengths = [] if place is None else [host.layers[layer][0] for layer in place.layers]
            values = _read(file, tensor, sum(lengths))
            assert place is not None, "without a place the length is refused"
            values = np.concatenate(np.split(values, 2)[::-1]) if place.swapped else values
            biases |= dict(zip(place.layers, np.split(values, np.cumsum(lengths)[:-1]), strict=True))
        elif _NORM.search(bare):
            name = known.get(bare, "")
            replaced[name] = _read(file, tensor, norms.get(name, 0))
        else:
            continue
        taken.append(tensor)
    return ControlParts(biases=biases, norms=replaced, tensors=frozenset(taken))


def _read(file: Safetensors, tensor: str, length: int) -> FloatArray:
    if not length:
        raise InputError(
            f"LoRA {file.path}: tensor {tensor!r} is for a layer that the bundle's {_TRANSFORMER} does not have; it "
            f"was trained for another model"
        )
    if file.entries[tensor].shape != (length,):
        raise InputError(
            f"LoRA {file.path}: tensor {tensor!r}: got shape {file.entries[tensor].shape}, expected ({length},); it "
            f"was trained for a model of another width"
        )
    values = file.read(tensor)
    if not np.isfinite(values).all():
        raise InputError(f"LoRA {file.path}: tensor {tensor!r}: got numbers that are not finite; the file is damaged")
    return values
