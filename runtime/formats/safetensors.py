"""Reads safetensors files with NumPy alone. A file is hostile until its header was checked."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.untrusted_json import load_json

__all__ = ["Safetensors", "TensorEntry"]

_LARGEST_HEADER = 100_000_000
"""Bytes; the bound of the reference implementation."""

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
"""Dtype name in the file to NumPy dtype. NumPy lacks bfloat16: it is read as the upper halves of float32."""

_METADATA = "__metadata__"
_LISTED = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """Position of a tensor in the file.

    Attributes:
        dtype: By the file's name: "F32", "F16", "BF16" ...
        shape: Its sizes.
        start: Offset of its first byte in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int


class Safetensors:
    """The tensors of one file. The header is read and checked at once; tensors are mapped on access.

    Format: https://github.com/huggingface/safetensors, section "Format".

    Attributes:
        path: The file.
        entries: Name to position of every tensor, in the order of the header.
        metadata: The strings under `__metadata__`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the header.

        Raises:
            InputError: The file cannot be read or is no safetensors file; the message names the fault.
        """
        self.path = Path(path)
        try:
            size = self.path.stat().st_size
            with self.path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                if size < 8 or length > min(_LARGEST_HEADER, size - 8):
                    raise self._fault(f"its header would have {length} bytes of {size}")
                text = stream.read(length)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}); look at the path") from error
        header = self._parse(text)
        metadata = header.pop(_METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise self._fault(f"{_METADATA} is no map of strings")
        self.metadata: Mapping[str, str] = metadata
        self.entries: Mapping[str, TensorEntry] = self._read_entries(header, 8 + length, size)

    def __iter__(self) -> Iterator[str]:
        """The names of the tensors."""
        return iter(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def stored(self, name: str) -> npt.NDArray[Any]:
        """A tensor as it lies in the file, mapped and read-only; bfloat16 as uint16."""
        entry = self.entries[name]
        dtype = np.dtype(_DTYPES[entry.dtype])
        if 0 in entry.shape:
            return np.zeros(entry.shape, dtype)
        return np.memmap(self.path, dtype, mode="r", offset=entry.start, shape=entry.shape)

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """A floating tensor as float32, in memory of its own.

        Raises:
            InputError: It is not floating.
        """
        kind, stored = self.entries[name].dtype, self.stored(name)
        if kind == "BF16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
        if not kind.startswith("F"):
            raise self._fault(f"tensor {name[:_LISTED]!r} is {kind}, expected a floating type")
        return np.array(stored, np.float32)

    def _parse(self, text: bytes) -> dict[str, Any]:
        try:
            header = load_json(text, _without_repeats)
        except ValueError as error:
            raise self._fault(f"its header is no JSON ({str(error)[:_LISTED]})") from error
        if not isinstance(header, dict):
            raise self._fault("its header is no object")
        return header

    def _read_entries(self, header: Mapping[str, Any], data: int, size: int) -> dict[str, TensorEntry]:
        spans = {name: self._read_entry(name, entry, data) for name, entry in header.items()}
        expected = data
        for name, (entry, end) in sorted(spans.items(), key=lambda item: (item[1][0].start, item[1][1])):
            if entry.start != expected:
                raise self._fault(f"tensor {name[:_LISTED]!r} begins at byte {entry.start}, expected {expected}")
            expected = end
        if expected != size:
            raise self._fault(f"its tensors end at byte {expected}, the file at {size}")
        return {name: entry for name, (entry, _) in spans.items()}

    def _read_entry(self, name: str, entry: Any, data: int) -> tuple[TensorEntry, int]:
        """Position of a tensor, and the offset behind it."""
        fields = entry if isinstance(entry, dict) else {}
        dtype, shape, span = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise self._fault(f"tensor {name[:_LISTED]!r} has the type {str(dtype)[:_LISTED]!r}, which is not read")
        if not _are_sizes(shape) or not _are_sizes(span) or len(span) != 2 or len(shape) > 8:
            raise self._fault(f"tensor {name[:_LISTED]!r} has no shape and offsets")
        bytes_ = int(np.dtype(_DTYPES[dtype]).itemsize)
        for side in shape:
            bytes_ *= side  # Python's integers do not overflow
        if span[1] - span[0] != bytes_:
            raise self._fault(f"tensor {name[:_LISTED]!r} has {span[1] - span[0]} bytes, expected {bytes_}")
        return TensorEntry(dtype=dtype, shape=tuple(shape), start=data + span[0]), data + span[1]

    def _fault(self, what: str) -> InputError:
        return InputError(f"{self.path}: is no safetensors file: {what}; fetch the file again, or do not trust it")


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**63 for number in value)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table
