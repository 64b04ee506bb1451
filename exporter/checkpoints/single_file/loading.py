"""Builds a network's torch module with the weights of a single file, which stay mapped until they are read."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open

from diffoundry.exporter.checkpoints.deferred_weights import DeferredWeights, defer_for
from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.exporter.checkpoints.single_file.architectures import FilePart
from diffoundry.exporter.checkpoints.single_file.match import match_part
from diffoundry.exporter.checkpoints.weights import build_module, widen
from diffoundry.exporter.components.defaults import complete_config
from diffoundry.runtime.formats.safetensors import Safetensors

__all__ = ["load_part"]


def load_part(
    file: Safetensors, owner: str, part: FilePart, folder: Path, module_class: str, *, deferred: bool = False
) -> torch.nn.Module:
    """Build a module in fp32 for inference.

    Args:
        file: The opened file.
        owner: Architecture of the file, or other owner of the network, for messages.
        part: The network.
        folder: Holds config.json.
        module_class: "library:class".
        deferred: True widens each weight when `deferred_weights` reads it.

    Raises:
        CheckpointError: Tensors are missing, of another shape or type, or left over.
    """
    with init_empty_weights(include_buffers=False):
        module = build_module(folder, module_class)
    wanted = {name: tuple(weight.shape) for name, weight in module.state_dict().items()}
    config = complete_config(read_json(folder / "config.json"), module_class.partition(":")[2])
    match = match_part(file.path, owner, part, file.entries, wanted, config)
    weights: dict[str, Any] = {}
    with safe_open(file.path, framework="pt") as opened:
        for name, place in match.places.items():
            weights[name] = place.extract(opened.get_tensor(match.prefix + place.name)).contiguous()
    module.load_state_dict(weights, assign=True)
    later = DeferredWeights()
    with later if deferred else nullcontext():
        return defer_for(widen(module), later)
