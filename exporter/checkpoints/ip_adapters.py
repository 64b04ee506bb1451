"""Finds the IP-Adapters that are joined to a checkpoint, and the image encoder that they were trained with."""

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffoundry.exporter.checkpoints.component_file import OutsideNetwork, open_component_file, starts_with
from diffoundry.exporter.checkpoints.flux_ip_adapter_weights import FluxIPAdapterWeights
from diffoundry.exporter.checkpoints.flux_ip_adapters import flux_ip_adapter_config
from diffoundry.exporter.checkpoints.ip_adapter_weights import ATTENTION, PROJECTION, IPAdapterWeights
from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.exporter.component import Config
from diffoundry.exporter.components.defaults import complete_config
from diffoundry.exporter.components.image_prompts import cross_attention_layers
from diffoundry.exporter.components.ip_adapter import ENCODER_CLASS, FULL, PLUS, POOLED
from diffoundry.exporter.configs.assemble import scratch_folder
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.recognize import describe_link
from diffoundry.runtime.formats.safetensors import Safetensors
from diffoundry.runtime.models.image_projection import ip_adapter_name, is_ip_adapter
from diffoundry.runtime.pipelines.registry import family_of_class

__all__ = ["find_ip_adapters", "index_with_ip_adapters", "saved_ip_adapters"]

_ENCODER = "image_encoder"

_FAMILIES = ("stable_diffusion", "latent_consistency", "stable_diffusion_xl")
_FLUX = ("flux", "flux_kontext")
_WITHOUT = "StableDiffusionAdapterPipeline"
"""Families whose pipeline classes in diffusers take image prompts, and the only class of these that does not."""

_FACE_ID = ("image_proj.perceiver_resampler.", "image_proj.norm.weight")
"""Beginnings of tensors that mark an IP-Adapter for face embeddings; a full projection has "image_proj.proj.3"."""

_KEY = re.compile(rf"{re.escape(ATTENTION)}(\d+)\.to_k_ip\.weight")
"""Name of the projection of keys of one cross attention."""

_TOKENS, _FULL_TOKENS = 4, 257
"""Tokens of an image prompt in diffusers, by the projection of one vector and of every token."""


def find_ip_adapters(
    root: Path, index: Mapping[str, Any], joined: Sequence[str], encoder: str | None
) -> dict[str, OutsideNetwork]:
    """Map component names, "ip_adapter", "ip_adapter_1" ... and "image_encoder", to their places.

    Args:
        root: The checkpoint's folder.
        index: Its model_index.json.
        joined: Files of the IP-Adapters, or folders with one each.
        encoder: Folder of the image encoder; None takes the checkpoint's own, or the folder "image_encoder" beside the
            first adapter, where it exists.

    Raises:
        CheckpointError: One cannot be found, or is no IP-Adapter, or fits no UNet like the checkpoint's.
    """
    if not joined:
        if encoder is not None:
            raise CheckpointError(f"--image-encoder: got {encoder!r} without --ip-adapter; pass both")
        return {}
    name = str(index.get("_class_name"))
    family = family_of_class(name)
    if family is None or family.name not in (*_FAMILIES, *_FLUX) or name == _WITHOUT:
        raise CheckpointError(f"--ip-adapter: got one with a {name}, which takes no image prompts; leave it out")
    files = [_file_of(text) for text in joined]
    if family.name in _FLUX:
        transformer = complete_config(read_json(root / "transformer" / "config.json"), "FluxTransformer2DModel")
        opened = [_place(flux_ip_adapter_config(file, transformer), file, FluxIPAdapterWeights) for file in files]
    else:
        unet = complete_config(read_json(root / "unet" / "config.json"), "UNet2DConditionModel")
        opened = [_open(file, unet) for file in files]
    found = {ip_adapter_name(number): one for number, one in enumerate(opened)}
    return {**found, _ENCODER: OutsideNetwork(folder=_encoder_folder(root, index, files[0], encoder))}


def index_with_ip_adapters(index: Mapping[str, Any], found: Mapping[str, OutsideNetwork]) -> dict[str, Any]:
    """Add an entry for each IP-Adapter, and for the image encoder, to model_index.json."""
    if not found:
        return dict(index)
    entries = {
        name: ["diffusers", str(read_json(one.folder / "config.json")["_class_name"])]
        for name, one in found.items()
        if is_ip_adapter(name)
    }
    return {**index, **entries, _ENCODER: list(ENCODER_CLASS)}


def saved_ip_adapters(index: Mapping[str, Any]) -> dict[str, Any]:
    """Undo the entries for IP-Adapters, which diffusers loads after it has opened a checkpoint."""
    return {key: value for key, value in index.items() if not is_ip_adapter(key)}


def _file_of(text: str) -> Path:
    """Return the file of an adapter; of a folder its only file with an IP-Adapter."""
    path = Path(text)
    link = describe_link(path)
    if link is not None:
        raise CheckpointError(f"--ip-adapter: {text}: {link}")
    if text and path.is_file():
        return path
    if not text or not path.is_dir():
        raise CheckpointError(
            f"--ip-adapter: got {text!r}, expected a .safetensors file with an IP-Adapter, or a folder with one; one "
            f"from a hub must be downloaded first"
        )
    names = sorted(file.name for file in path.glob("*.safetensors"))
    if len(names) != 1:
        have = f"{len(names)} of them: {', '.join(names)}" if names else "none"
        raise CheckpointError(
            f"--ip-adapter: {text}: got a folder with {have}, expected one .safetensors file; name the file itself"
        )
    return path / names[0]


def _open(path: Path, unet: Config) -> OutsideNetwork:
    """Read the header of an adapter, and write the config of its projection."""
    file = open_component_file("--ip-adapter", str(path))
    config = _config(path, file)
    layers = cross_attention_layers(unet)
    widths = [file.entries[name].shape[0] for name in _keys(file)]
    expected = [layer.width for layer in layers]
    if widths != expected:
        detail = (
            f"{len(widths)} cross attentions, but the UNet has {len(expected)}"
            if len(widths) != len(expected)
            else f"cross attentions of {widths} channels, but the UNet has {expected}"
        )
        raise CheckpointError(
            f"--ip-adapter {path}: got weights for {detail}; it was made for another kind of checkpoint"
        )
    return _place({**config, "layers": [layer.name.removesuffix(".attn2") for layer in layers]}, path, IPAdapterWeights)


def _place(config: Mapping[str, Any], path: Path, kind: type[IPAdapterWeights]) -> OutsideNetwork:
    """Write the config of a projection, whose weights lie in a file."""
    folder = Path(tempfile.mkdtemp(dir=scratch_folder())) / "ip_adapter"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return OutsideNetwork(folder=folder, file=kind(folder=folder, path=path))


def _keys(file: Safetensors) -> list[str]:
    """Names of the projections of keys, in the order of the UNet's cross attentions."""
    found = (_KEY.fullmatch(name) for name in file)
    numbers = sorted(int(match[1]) for match in found if match is not None)
    return [f"{ATTENTION}{number}.to_k_ip.weight" for number in numbers]


def _config(path: Path, file: Safetensors) -> dict[str, Any]:
    """Make the config of an adapter's projection from the shapes of its weights.

    Raises:
        CheckpointError: It is no IP-Adapter, or of an unknown kind.
    """
    keys = _keys(file)

    def shape(name: str) -> tuple[int, ...]:
        entry = file.entries.get(f"{PROJECTION}{name}")
        return () if entry is None else tuple(entry.shape)

    if not keys or not starts_with(file, PROJECTION):
        raise CheckpointError(
            f"--ip-adapter {path}: got no IP-Adapter, expected tensors {PROJECTION}* and {ATTENTION}*; name a file "
            f"such as ip-adapter_sd15.safetensors"
        )
    width = file.entries[keys[0]].shape[1]
    if len(shape("proj.weight")) == 2:
        kind, taken, tokens = POOLED, shape("proj.weight")[1], _TOKENS
    elif len(shape("proj.3.weight")) == 1:
        kind, taken, tokens = FULL, shape("proj.0.weight")[1], _FULL_TOKENS
    elif starts_with(file, *_FACE_ID) or len(shape("latents")) != 3:
        raise CheckpointError(
            f"--ip-adapter {path}: got an IP-Adapter for face embeddings, or of an unknown kind, which is not "
            f"supported; expected a plain, a Plus or a full-face one"
        )
    else:
        kind, taken, tokens = PLUS, shape("proj_in.weight")[1], shape("latents")[1]
    return {
        "_class_name": kind, "image_embed_dim": taken, "cross_attention_dim": width, "num_image_text_embeds": tokens
    }  # fmt: skip


def _encoder_folder(root: Path, index: Mapping[str, Any], first: Path, encoder: str | None) -> Path:
    """Find the image encoder.

    Raises:
        CheckpointError: There is none.
    """
    if encoder is None:
        own = index.get(_ENCODER)
        places = [root / _ENCODER] if isinstance(own, list) and any(own) else []
        places.append(first.parent / _ENCODER)
        found = next((place for place in places if (place / "config.json").is_file()), None)
        if found is None:
            raise CheckpointError(
                f"--ip-adapter {first}: got no folder {_ENCODER!r} beside it, expected the image encoder that it was "
                f"trained with; pass its folder as --image-encoder"
            )
        return found
    folder = Path(encoder)
    link = describe_link(folder)
    if link is not None:
        raise CheckpointError(f"--image-encoder: {encoder}: {link}")
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"--image-encoder: got {encoder!r}, expected the folder of a {ENCODER_CLASS[1]} with config.json and "
            f"model.safetensors"
        )
    return folder
