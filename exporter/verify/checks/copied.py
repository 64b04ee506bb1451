"""Compares what a bundle copies from its checkpoint: model_index.json and tokenizers."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.verify.report.report import Check, holds
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.manifest import Manifest

__all__ = ["check_copies"]

_SHOWN = 5
"""Differences that a message lists."""

_OF_TARGETS = "openvino_"
"""Beginning of the names of tokenizers that a target makes."""

_VERSIONS = ("_diffusers_version", "_name_or_path")
"""Keys of model_index.json that say how it was written."""


def check_copies(bundle: Bundle, checkpoint: Checkpoint) -> Iterator[Check]:
    """Compare model_index.json, tokenizers and copied weights with those that an export of the checkpoint writes.

    The runtime reads tokenizer.json; other programs read vocab.json and merges.txt of the same folder.

    Args:
        bundle: The bundle; nothing is compared without a manifest.
        checkpoint: Its checkpoint.
    """
    if bundle.manifest is None:
        return
    index = [
        {name: value for name, value in one.items() if name not in _VERSIONS}
        for one in (bundle.read_json("model_index.json"), checkpoint.bundle_model_index())
    ]
    yield holds("bundle", "model_index.json", "entries", _difference(*index))
    yield holds("bundle", "manifest", "components", _difference(*_described(bundle.manifest, checkpoint)))
    with tempfile.TemporaryDirectory(prefix="diffoundry-verify-") as folder:
        for name in checkpoint.tokenizer_folders:
            place = Path(folder) / name
            _copy(checkpoint, name, place)
            checkpoint.write_tokenizer(name, place)
            faults = [*_wrong_files(bundle, name, place), *_foreign_files(bundle, checkpoint, name, place)]
            yield holds("bundle", name, "files", "; ".join(faults) or None)
        for name in checkpoint.weight_folders:
            _copy(checkpoint, name, Path(folder) / name)
            faults = [*_wrong_files(bundle, name, Path(folder) / name)]
            yield holds("bundle", name, "files", "; ".join(faults) or None)


def _described(manifest: Manifest, checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Any]]:
    """Describe role and network of every component, in the manifest and by the checkpoint."""
    ours = {name: {"role": spec.role, "network": spec.network} for name, spec in manifest.components.items()}
    expected = {one.name: {"role": one.role, "network": one.network} for one in checkpoint.components}
    for name, spec in ours.items():
        if not spec["network"] and name in expected:  # formats 1 to 4 have none
            spec["network"] = expected[name]["network"]
    return ours, expected


def _copy(checkpoint: Checkpoint, name: str, place: Path) -> None:
    place.mkdir(parents=True)
    for source, target in checkpoint.bundle_files():
        if target.startswith(f"{name}/"):
            (place / Path(target).name).write_bytes(source.read_bytes())


def _wrong_files(bundle: Bundle, name: str, expected: Path) -> Iterator[str]:
    for path in sorted(expected.iterdir()):
        file = f"{name}/{path.name}"
        if not bundle.has(file):
            yield f"{path.name} is missing"
            continue
        fault = _file_difference(bundle.file(file), path)
        if fault:
            yield f"{path.name}: {fault}"


def _foreign_files(bundle: Bundle, checkpoint: Checkpoint, name: str, expected: Path) -> Iterator[str]:
    """Name the files of a tokenizer that neither an export writes nor the checkpoint has; a target adds its own."""
    for file in bundle.manifest.files if bundle.manifest else ():
        folder, _, rest = file.partition("/")
        if folder != name or (expected / rest).exists() or rest.startswith(_OF_TARGETS):
            continue
        source = checkpoint.root / name / rest
        if not source.is_file() or source.read_bytes() != bundle.file(file).read_bytes():
            yield f"{rest}: the checkpoint has no such file"


def _file_difference(ours: Path, expected: Path) -> str | None:
    mine, wanted = ours.read_bytes(), expected.read_bytes()
    if mine == wanted:
        return None
    if expected.suffix == ".json":
        try:
            pair = json.loads(mine), json.loads(wanted)
        except ValueError as error:
            return f"no JSON ({error})"
        return _difference(*pair)
    if expected.suffix == ".safetensors":
        return "other weights"
    lines = mine.decode("utf-8", "replace").splitlines(), wanted.decode("utf-8", "replace").splitlines()
    return _difference(*(dict(enumerate(one, 1)) for one in lines))


def _difference(ours: Any, expected: Any) -> str | None:
    """Describe the entries that differ between two JSON values, or None."""
    faults = list(_differences(ours, expected, ""))
    if not faults:
        return None
    return "; ".join(faults[:_SHOWN]) + (f"; {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else "")


def _differences(ours: Any, expected: Any, place: str) -> Iterator[str]:
    if isinstance(ours, Mapping) and isinstance(expected, Mapping):
        for name in dict.fromkeys((*expected, *ours)):
            where = f"{place}.{name}" if place else str(name)
            yield from _differences(ours.get(name), expected.get(name), where)
    elif isinstance(ours, list) and isinstance(expected, list) and len(ours) == len(expected):
        for index, pair in enumerate(zip(ours, expected, strict=True)):
            yield from _differences(*pair, f"{place}[{index}]")
    elif ours != expected:
        yield f"{place}: got {_short(ours)}, expected {_short(expected)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."
