"""Rewrites pickled weights as safetensors, without running the code that a pickle may hold."""

import json
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.exporter.checkpoints.weight_files import PICKLES
from diffoundry.runtime.bundle.file_checks import enclosing_bundle
from diffoundry.runtime.errors import CheckpointError, InputError
from diffoundry.runtime.formats.recognize import recognize

__all__ = ["convert"]

_METADATA = {"format": "pt"}

_STEMS = {"pytorch_model": "model", "diffusion_pytorch_model": "diffusion_pytorch_model"}
"""First part of the names of pickled weights to that of safetensors: transformers', diffusers'."""

_INDEX = ".bin.index.json"


def convert(source: Path, target: Path, report: Callable[[Path], None]) -> None:
    """Rewrite a pickled file, or the pickled weights in a checkpoint's folder; other files of a folder are copied.

    Args:
        source: File or folder.
        target: The new safetensors file or folder, which must not exist.
        report: Called with each file of weights after it was written.

    Raises:
        InputError: The source holds nothing to convert, or the target exists, lies in a bundle, or has another suffix.
        CheckpointError: A pickle is damaged, or holds more than tensors.
    """
    if target.exists():
        raise InputError(f"--output {target}: exists already; choose another name")
    found = enclosing_bundle(target.parent)
    if found is not None:
        raise InputError(f"--output {target}: got a folder of the bundle {found}, expected another; choose one")
    if source.is_dir():
        _convert_folder(source, target, report)
        return
    if not source.is_file():
        raise InputError(
            f"{source}: no such file or folder, expected a pickled file or a checkpoint in diffusers' layout"
        )
    if target.suffix != ".safetensors":
        raise InputError(f"--output {target}: expected a name that ends in .safetensors")
    draft = target.with_name(f"{target.name}.partial")
    _convert_file(source, draft)
    draft.replace(target)
    report(target)


def _convert_folder(source: Path, target: Path, report: Callable[[Path], None]) -> None:
    found = {path: new for path in sorted(source.rglob("*")) if (new := _new_name(path)) is not None}
    if not found:
        raise InputError(
            f"{source}: got no pickled weights (diffusion_pytorch_model.bin, pytorch_model.bin), expected some"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        draft = Path(scratch) / "draft"
        try:
            shutil.copytree(source, draft, ignore=_leave_out)
        except (OSError, shutil.Error) as error:
            raise CheckpointError(f"{source}: cannot be copied: {_first_line(error):.200}") from error
        for path, name in found.items():
            place = draft / path.relative_to(source).with_name(name)
            if place.exists():  # the safetensors file beside it counts
                continue
            if path.name.endswith(".json"):
                _convert_index(path, place)
            else:
                _convert_file(path, place)
                report(target / place.relative_to(draft))
        draft.rename(target)


def _leave_out(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(PICKLES) or _new_name(Path(folder, name)) is not None]


def _new_name(path: Path) -> str | None:
    """Return the name of a file of pickled weights as safetensors; None for any other file."""
    stem = next((stem for stem in sorted(_STEMS, key=len, reverse=True) if path.name.startswith(stem)), None)
    if stem is None or not path.name.endswith((".bin", ".json")) or ".bin" not in path.name:
        return None
    rest = path.name.removeprefix(stem)
    if rest[:1] not in (".", "-"):
        return None
    return _STEMS[stem] + rest.replace(".bin", ".safetensors", 1)


def _convert_index(source: Path, target: Path) -> None:
    """Rewrite an index of shards with their new names."""
    index = read_json(source)
    places = index.get("weight_map")
    if not isinstance(places, Mapping):
        raise CheckpointError(f"{source}: got no 'weight_map', expected tensor names with their files; it is damaged")
    renamed = {tensor: _new_name(Path(str(name))) or str(name) for tensor, name in places.items()}
    target.write_text(json.dumps({**index, "weight_map": renamed}, indent=2) + "\n", encoding="utf-8")


def _convert_file(source: Path, target: Path) -> None:
    tensors = dict(_tensors(_load(source), source))
    if not tensors:
        raise CheckpointError(f"{source}: got no tensors, expected a table of names and tensors")
    try:
        save_file(tensors, target, _METADATA)
    except (ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{source}: cannot be written as safetensors: {_first_line(error)}") from error
    os.chmod(target, 0o644)  # safetensors leaves files that only their owner may read


def _load(path: Path) -> Any:
    """Read a pickle with torch's reader for tensors and plain values, which runs no code."""
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = recognize(path)
        if kind is None or "pickled" not in kind:
            text = kind or "is no pickled file, or is damaged; expected one that torch.save wrote"
            raise CheckpointError(f"{path}: {text}") from error
        found = re.search(r"GLOBAL ([\w.]+)", str(error))  # torch's own text advises to turn its check off
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, or is damaged{f' ({found[1]})' if found else ''}; "
            f"it is not read, since it may run code"
        ) from error
    except Exception as error:  # torch raises whatever its zip reader finds wrong
        kind = recognize(path)
        text = (
            kind if kind and "pickled" not in kind else f"cannot be read ({_first_line(error):.200}); download it again"
        )
        raise CheckpointError(f"{path}: {text}") from error


def _tensors(state: Any, path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the named tensors of a state dict, also of one inside a training checkpoint or an embedding."""
    for key in ("state_dict", "string_to_param"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            if key == "string_to_param":  # an embedding of AUTOMATIC1111; its safetensors have this name
                state = dict.fromkeys(["emb_params"], next(iter(state.values()), None))
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: got {type(state).__name__}, expected a table of names and tensors")
    seen: set[int] = set()
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            place = value.untyped_storage().data_ptr()
            yield name, value.detach().clone() if place in seen else value.detach().contiguous()
            seen.add(place)


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
