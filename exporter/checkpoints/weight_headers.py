"""Opens the headers of a network's weight files, and refuses damaged, incomplete and quantized files."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffoundry.exporter.checkpoints.json_files import name_some
from diffoundry.exporter.checkpoints.weight_files import Choice, choose_weights, read_shards
from diffoundry.exporter.component import Config
from diffoundry.runtime.errors import CheckpointError, InputError
from diffoundry.runtime.formats.safetensors import Safetensors, TensorEntry

__all__ = ["FLOAT8", "WeightFiles", "check_types", "float8_note", "open_header", "open_weights"]

FLOAT8 = ("F8_E4M3", "F8_E5M2")
_FLOATS = ("F64", "F32", "F16", "BF16", *FLOAT8)

_SCALES = (
    "scaled_fp8", ".scale_weight", ".scale_input", ".weight_scale", ".input_scale", ".weight_scale_2",
    ".weight_scale_inv", ".comfy_quant",
)  # fmt: skip
"""Ends of the names of scales beside float8 and fp4 weights: ComfyUI, compressed-tensors, TensorRT Model Optimizer."""

_PACKED = (".qweight", ".SCB", ".absmax", ".quant_map", ".weight_packed", "._data", ".lut")
"""Ends of the names of packed integers: GPTQ and AWQ, bitsandbytes, compressed-tensors, quanto, palettes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFiles:
    """The weights of one network in a folder, all of whose headers were read.

    Attributes:
        choice: The variant, and the file or index that was chosen.
        files: Names of the safetensors files.
        types: Types of the floating tensors, by the format's names.
    """

    choice: Choice
    files: tuple[str, ...]
    types: frozenset[str]


def open_weights(folder: Path, library: str, config: Config, variant: str | None = None) -> WeightFiles:
    """Find the weight files of a network and read their headers.

    Args:
        folder: The network's folder.
        library: As in `weight_stem`.
        config: Its config.json.
        variant: As in `choose_weights`.

    Raises:
        CheckpointError: Weights are missing, pickled, damaged, cut off or quantized.
    """
    method = config.get("quantization_config")
    if method:
        kind = method.get("quant_method", "unknown") if isinstance(method, Mapping) else "unknown"
        raise CheckpointError(
            f"{folder / 'config.json'}: got weights quantized by {str(kind)[:40]!r}, which are not supported; expected "
            f"a checkpoint in fp16, bf16 or fp32; export that and quantize with --precision int8-weights"
        )
    choice = choose_weights(str(folder), {path.name for path in folder.iterdir()}, library, variant)
    if not choice.name.endswith(".json"):
        headers = {choice.name: open_header(folder / choice.name)}
    else:
        headers = _open_shards(folder, choice.name)
    for header in headers.values():
        check_types(header.path, header.entries)
    types = {entry.dtype for header in headers.values() for entry in header.entries.values()}
    return WeightFiles(choice=choice, files=tuple(headers), types=frozenset(types & set(_FLOATS)))


def open_header(path: Path) -> Safetensors:
    """Read the header of a safetensors file.

    Raises:
        CheckpointError: It is no safetensors file, damaged, or cut off; the message names the kind of file.
    """
    try:
        return Safetensors(path)
    except InputError as error:
        raise CheckpointError(str(error)) from error


def _open_shards(folder: Path, index: str) -> dict[str, Safetensors]:
    shards = read_shards(folder / index)
    headers = {}
    for name in shards.names:
        if not (folder / name).exists() and not (folder / name).is_symlink():
            raise CheckpointError(
                f"{folder / index}: names the file {name!r}, which is missing; the download is incomplete"
            )
        headers[name] = open_header(folder / name)
    absent = sorted(tensor for tensor, name in shards.places.items() if tensor not in headers[name])
    if absent:
        raise CheckpointError(
            f"{folder / index}: names tensors that its files lack: {name_some(absent)}; files of different downloads "
            f"are mixed, download the folder again"
        )
    return headers


def check_types(path: Path, entries: Mapping[str, TensorEntry]) -> None:
    """Refuse quantized weights.

    Args:
        path: Used in messages.
        entries: All tensors of the file.

    Raises:
        CheckpointError: There are scales beside the weights, packed integers, or weights of no floating type.
    """
    scale = _find(entries, _SCALES)
    if scale is not None:
        raise _quantized(path, f"weights with scales beside them (tensor {scale[:80]})")
    packed = _find(entries, _PACKED)
    if packed is not None:
        raise _quantized(path, f"packed weights (tensor {packed[:80]})")
    for name, entry in entries.items():
        if name.endswith((".weight", ".bias")) and entry.dtype not in _FLOATS:
            raise _quantized(path, f"tensor {name[:80]} of the type {entry.dtype}")


def _find(names: Iterable[str], ends: tuple[str, ...]) -> str | None:
    return next((name for name in names if name.endswith(ends)), None)


def _quantized(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: got {found}, expected {', '.join(_FLOATS)}; quantized files are not supported, download the file in "
        f"fp16, bf16 or fp32"
    )


def float8_note(name: str, types: Collection[str]) -> str | None:
    """Return a note for the user about float8 weights, or None without any."""
    found = [dtype for dtype in FLOAT8 if dtype in types]
    return f"{name}: weights of the type {' and '.join(found)} are widened to fp32, exactly" if found else None
