"""Opens a ControlNet of Z-Image in one safetensors file, whose config follows from its tensors and the transformer's.

VideoX-Fun 2025, Z-Image-Turbo-Fun-Controlnet-Union. diffusers: `ZImageControlNetModel.from_single_file`, which takes
the config from a repository of each version.
"""

import re

from diffoundry.exporter.checkpoints.component_file import OutsideNetwork, open_component_file, place_network
from diffoundry.exporter.checkpoints.single_file.detect import describe_tensors
from diffoundry.exporter.component import Config
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.safetensors import Safetensors
from diffoundry.runtime.models.z_image_transformer_2d import PATCH, PATCH_KEY

__all__ = ["Z_IMAGE_CONTROLNET", "open_z_image_controlnet_file"]

Z_IMAGE_CONTROLNET = "ZImageControlNetModel"

_PLACES = {3: (0, 14, 28), 6: tuple(range(0, 30, 5)), 15: tuple(range(0, 30, 2))}
"""Number of layers to the blocks of the transformer that they change, of the published versions."""

_EMBEDDER = f"control_all_x_embedder.{PATCH_KEY}.weight"
_FIRST = "control_noise_refiner.0.before_proj.weight"
_SHARED = ("dim", "n_heads", "n_kv_heads", "n_refiner_layers", "norm_eps", "qk_norm")
"""Fields that a ControlNet has from the transformer whose layers it also uses."""

_CORRECTED = 15
"""Layers of versions 2.0 and 2.1."""


def open_z_image_controlnet_file(text: str, source: str, transformer: Config) -> OutsideNetwork:
    """Open a ControlNet in the names of its original code, which are those of diffusers.

    Args:
        text: The file.
        source: Name of the component, such as "controlnet".
        transformer: config.json of the checkpoint's transformer.

    Raises:
        CheckpointError: It is pickled, damaged, no ControlNet of Z-Image, or of a version that is not known.
    """
    file = open_component_file("--controlnet", text)
    entry = file.entries.get(_EMBEDDER)
    if entry is None or len(entry.shape) != 2:
        raise CheckpointError(
            f"--controlnet {text}: {describe_tensors(file.entries)}; expected a ControlNet of Z-Image, with the tensor "
            f"{_EMBEDDER!r}"
        )
    layers = len({found[1] for name in file if (found := re.match(r"control_layers\.(\d+)\.", name))})
    if layers not in _PLACES:
        raise CheckpointError(
            f"--controlnet {text}: got {layers} control layers, expected {', '.join(map(str, _PLACES))}, as the "
            f"published versions have; pass a folder in diffusers' layout, whose config says which blocks they change"
        )
    config = {
        "_class_name": Z_IMAGE_CONTROLNET,
        **{key: transformer[key] for key in _SHARED if key in transformer},
        "control_layers_places": list(_PLACES[layers]),
        "control_refiner_layers_places": [0, 1],
        "control_in_dim": entry.shape[1] // PATCH**2,
        "add_control_noise_refiner": _refiner(file, layers),
    }
    return place_network(file, source, config, None)


def _refiner(file: Safetensors, layers: int) -> str | None:
    """Return `add_control_noise_refiner`. diffusers: `infer_diffusers_model_type`.

    Version 2.0 has layers for the refiner that were never trained, and uses its first control layers instead.
    """
    if _FIRST in file and file.read(_FIRST).any():
        return "control_noise_refiner"
    return "control_layers" if layers == _CORRECTED else None
