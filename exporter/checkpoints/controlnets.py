"""Finds the ControlNets of a checkpoint: its own, and those joined from other folders."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffoundry.exporter.checkpoints.aliases import alias_folder, read_aliases
from diffoundry.exporter.checkpoints.component_file import OutsideNetwork
from diffoundry.exporter.checkpoints.controlnet_file import open_controlnet_file
from diffoundry.exporter.checkpoints.joined_networks import network_in_folder, own_networks, several_as_one
from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.exporter.checkpoints.z_image_controlnet_file import Z_IMAGE_CONTROLNET, open_z_image_controlnet_file
from diffoundry.exporter.components.controlnet import CONTROLNET_CLASS
from diffoundry.exporter.components.defaults import complete_config
from diffoundry.exporter.families.lookup import controlnet_class
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.recognize import describe_link
from diffoundry.runtime.models.controlnet import controlnet_name, is_controlnet
from diffoundry.runtime.pipelines.registry import FAMILY_TABLE, class_with

__all__ = ["SEVERAL", "diffusers_index", "find_controlnets", "joined_index", "own_controlnets", "take_masks"]

SEVERAL = {
    "ControlNetModel": "MultiControlNetModel",
    "FluxControlNetModel": "FluxMultiControlNetModel",
    "HunyuanDiT2DControlNetModel": "HunyuanDiT2DMultiControlNetModel",
    "SanaControlNetModel": "MultiControlNetModel",
    "QwenImageControlNetModel": "QwenImageMultiControlNetModel",
    "SD3ControlNetModel": "SD3MultiControlNetModel",
    "ZImageControlNetModel": "MultiControlNetModel",
}
"""Class of a ControlNet to that of several, in `diffusers.models.controlnets`."""

_MASK_CHANNELS = ("extra_conditioning_channels", "extra_condition_channels")
"""Fields for the channels of a mask, in configs of Stable Diffusion 3 and Qwen-Image."""


def find_controlnets(root: Path, index: Mapping[str, Any], joined: Sequence[str]) -> dict[str, OutsideNetwork]:
    """Map ControlNet names, "controlnet", "controlnet_1" ..., to their places, the checkpoint's own first.

    Args:
        root: The checkpoint's folder.
        index: Its model_index.json.
        joined: Folders, files or aliases of the joined ControlNets.

    Raises:
        CheckpointError: One cannot be found, or is no ControlNet.
    """
    own = own_controlnets(index, {path.name for path in root.iterdir()})
    found = {name: OutsideNetwork(folder=root / name) for name in own}
    for text in joined:
        name = controlnet_name(len(found))
        found[name] = _find(text, name, root, controlnet_class(index)[1])
    return found


def own_controlnets(index: Mapping[str, Any], folders: Collection[str]) -> tuple[str, ...]:
    """Names of a checkpoint's own ControlNets; if model_index.json names several, as many as there are folders.

    Args:
        index: model_index.json.
        folders: Names of the folders beside it.
    """
    return own_networks(index, folders, controlnet_name, SEVERAL[controlnet_class(index)[1]])


def take_masks(networks: Mapping[str, OutsideNetwork]) -> bool:
    """Return whether ControlNets take a mask beside the image, as those for inpainting do."""
    configs = [read_json(network.folder / "config.json") for network in networks.values()]
    return any(config.get(field) for config in configs for field in _MASK_CHANNELS)


def joined_index(index: Mapping[str, Any], names: Sequence[str], *, masks: bool = False) -> dict[str, Any]:
    """Add an entry for each ControlNet to model_index.json, and choose the pipeline class with ControlNets.

    Args:
        index: model_index.json.
        names: Of the ControlNets.
        masks: True if they take a mask beside the image.

    Raises:
        CheckpointError: diffusers has no such class.
    """
    if not names:
        return dict(index)
    found = index["_class_name"]
    joined = class_with(found, "controlnet")
    if joined is None:
        plain = [name for entry in FAMILY_TABLE for name, found in entry.classes.items() if not found.controlnet]
        raise CheckpointError(
            f"model_index.json: pipeline class: got {found!r} with a ControlNet, expected one of "
            f"{', '.join(name for name in plain if class_with(name, 'controlnet'))}"
        )
    masked = class_with(joined, "control_mask") if masks else joined
    entries = {name: list(controlnet_class(index)) for name in names}
    return {**index, "_class_name": masked or joined, **entries}


def diffusers_index(index: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `joined_index`: build diffusers' form, where several ControlNets are one entry."""
    library, one = controlnet_class(index)
    return several_as_one(index, is_controlnet, [library, SEVERAL[one]])


def _find(text: str, name: str, root: Path, class_name: str) -> OutsideNetwork:
    """Find a ControlNet by the user's name for it."""
    alias = read_aliases().get(text)
    link = describe_link(Path(text)) if alias is None else None
    if link is not None:
        raise CheckpointError(f"--controlnet: {text}: {link}")
    if alias is None and text and Path(text).is_file() and class_name == Z_IMAGE_CONTROLNET:
        config = complete_config(read_json(root / "transformer" / "config.json"), "ZImageTransformer2DModel")
        return open_z_image_controlnet_file(text, name, config)
    if alias is None and text and Path(text).is_file():
        unet = root / "unet"
        if not unet.is_dir():
            raise CheckpointError(
                f"--controlnet {text}: the checkpoint has no UNet to take its config from; pass a folder in diffusers' "
                f"layout"
            )
        config = complete_config(read_json(unet / "config.json"), "UNet2DConditionModel")
        return open_controlnet_file(text, name, config)
    folder = alias_folder(alias.folder) if alias is not None and alias.folder is not None else Path(text)
    file = "a .safetensors file with a ControlNet, or "
    others = f"an alias, {file}" if class_name == CONTROLNET_CLASS else file if class_name == Z_IMAGE_CONTROLNET else ""
    return network_in_folder("--controlnet", text, folder, class_name, others)
