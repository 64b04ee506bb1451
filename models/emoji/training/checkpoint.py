"""Writes checkpoints to resume from, and components in diffusers' layout."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors.torch import load, load_file, save_file
from transformers import CLIPTextModel

from diffoundry.runtime.errors import CheckpointError

__all__ = [
    "FORMAT",
    "SHIPPED",
    "copy_component",
    "load_network",
    "load_state",
    "prepare_folder",
    "save_state",
    "write_component",
]

FORMAT = 1
SHIPPED = Path(__file__).resolve().parent.parent
_COMPONENTS = ("tokenizer", "text_encoder", "unet", "vae")
_WIRING = ("model_index.json", "scheduler/scheduler_config.json")
_METADATA = {"format": "pt"}


_Network = TypeVar("_Network")


class _Savable(Protocol):
    def save_pretrained(self, folder: Path) -> object: ...


def save_state(state: dict[str, Any], file: Path) -> None:
    """Write a training state so that a kill at any moment leaves the old file or the new one, never a part."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(".tmp")
    with scratch.open("wb") as handle:
        torch.save({"format": FORMAT, **state}, handle)
        handle.flush()
        os.fsync(handle.fileno())
    scratch.replace(file)


def load_state(file: Path) -> dict[str, Any]:
    """Read a training state; tensors and plain values only, no pickled code.

    Raises:
        CheckpointError: the file is damaged, holds code, or has another format version.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        version = state["format"]
    except Exception as error:
        # torch raises whatever its zip reader or its unpickler finds wrong.
        raise CheckpointError(
            f"The training checkpoint {file} cannot be read ({type(error).__name__}). "
            "It is damaged or not one of train.py; remove it to start the stage again."
        ) from error
    if version != FORMAT:
        raise CheckpointError(
            f"The training checkpoint {file} has format {version}, expected {FORMAT}. "
            "Finish it with the version of train.py that wrote it, or remove it."
        )
    return dict(state)


def load_network(kind: type[_Network], folder: Path) -> _Network:
    """Load a network of diffusers from its component folder, in float32.

    Unlike `from_pretrained`, its config does not record the folder, and neither does a later save.

    Args:
        kind: its class, such as `diffusers.AutoencoderKL`.
        folder: holds `config.json` and `diffusion_pytorch_model.safetensors`.
    """
    maker: Any = kind
    network = maker.from_config(maker.load_config(folder))
    network.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    loaded: _Network = network
    return loaded


def write_component(component: _Savable, folder: Path) -> None:
    """Save a component to its folder atomically: write it beside, then rename it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        fresh = Path(scratch) / "fresh"
        component.save_pretrained(fresh)
        if isinstance(component, CLIPTextModel):
            _publish_names(fresh / "model.safetensors")
        for file in fresh.iterdir():
            file.chmod(0o644)  # safetensors leaves files that only their owner may read
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        fresh.rename(folder)


def _publish_names(file: Path) -> None:
    """Give a CLIP text encoder the names of published checkpoints, "text_model.encoder...".

    transformers 5 reads names with and without "text_model.", and writes them without. transformers 4 takes names
    without it for missing weights, and builds random ones.
    """
    weights = load(file.read_bytes())
    save_file({f"text_model.{name.removeprefix('text_model.')}": weights[name] for name in weights}, file, _METADATA)


def prepare_folder(
    out: Path,
    init: Path | None,
    shipped: Path = SHIPPED,
    wiring: Sequence[str] = _WIRING,
    components: Sequence[str] = _COMPONENTS,
) -> None:
    """Make `out` a checkpoint folder: pipeline config and scheduler, and every component that it lacks from `init`.

    Args:
        out: the folder.
        init: a checkpoint to start from; None: from scratch.
        shipped: the checkpoint whose `wiring` is copied when `init` is None.
        wiring: paths of the files that no training changes.
        components: names of the component folders.

    Raises:
        CheckpointError: `init` is not a checkpoint in diffusers' layout.
    """
    source = shipped if init is None else init
    lacking = [name for name in (*wiring, *(components if init else ())) if not (source / name).exists()]
    if lacking:
        raise CheckpointError(
            f"{source} lacks {', '.join(lacking)}. To start from weights, name a folder in diffusers' layout "
            f"with model_index.json, scheduler, {', '.join(components)}."
        )
    for name in wiring:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, out / name)
    for name in components if init else ():
        copy_component(source / name, out / name)


def copy_component(source: Path, folder: Path) -> None:
    """Copy a component folder, atomically, unless `folder` is there."""
    if not folder.exists():
        write_component(_Copy(source), folder)


class _Copy:
    """A component that is saved by copying its files, without permissions."""

    def __init__(self, source: Path) -> None:
        self._source = source

    def save_pretrained(self, folder: Path) -> None:
        shutil.copytree(self._source, folder, copy_function=shutil.copyfile)
