"""Reads safetensors files with NumPy alone. A file is hostile until its header was checked."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.recognize import describe_link, recognize
from diffoundry.runtime.formats.untrusted_json import load_json

__all__ = ["Safetensors", "TensorEntry"]

_LARGEST_HEADER = 100_000_000
"""Bytes; the bound of the reference implementation."""

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
    "F8_E4M3": "u1", "F8_E5M2": "u1",
}  # fmt: skip
"""Dtype name in the file to NumPy dtype. NumPy lacks bfloat16 and float8: their bits are read as integers."""

_QUANTIZED_TYPES = ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
"""Types of block formats, whose numbers mean nothing without the scales beside them, and AMD's forms of float8."""

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
                begins = stream.read(1)
                if size < 8 or length > min(_LARGEST_HEADER, size - 8):
                    raise self._no_header(length, size, begins)
                text = begins + stream.read(length - 1) if length else b""
        except OSError as error:
            raise self._unreadable(error) from error
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
        """A tensor as it lies in the file, mapped and read-only; bfloat16 as uint16, float8 as uint8."""
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
        if kind == "F8_E5M2":
            return np.array((stored.astype(np.uint16) << 8).view(np.float16), np.float32)
        if kind == "F8_E4M3":
            return np.take(_e4m3_values(), stored)
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
        if expected > size:
            raise self._cut_off(expected, size)
        if expected != size:
            raise self._fault(f"its tensors end at byte {expected}, the file at {size}")
        return {name: entry for name, (entry, _) in spans.items()}

    def _read_entry(self, name: str, entry: Any, data: int) -> tuple[TensorEntry, int]:
        """Position of a tensor, and the offset behind it."""
        fields = entry if isinstance(entry, dict) else {}
        dtype, shape, span = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
        if dtype in _QUANTIZED_TYPES:
            raise InputError(
                f"{self.path}: tensor {name[:_LISTED]!r} has the quantized type {dtype}, which is not supported; "
                f"download the file in fp16, bf16 or fp32"
            )
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

    def _no_header(self, length: int, size: int, begins: bytes) -> InputError:
        """Return the error of a file without a whole header: the kind that it is of, if that is known."""
        kind = recognize(self.path)
        if kind is not None:
            return InputError(f"{self.path}: {kind}")
        if size < 9 or (begins == b"{" and length <= _LARGEST_HEADER):
            return self._cut_off(8 + length, size)
        return self._fault(f"its header would have {length} bytes of {size}")

    def _cut_off(self, expected: int, size: int) -> InputError:
        return InputError(
            f"{self.path}: is cut off: it has {size} bytes, expected {expected} or more; the download is incomplete, "
            f"download it again"
        )

    def _unreadable(self, error: OSError) -> InputError:
        link = describe_link(self.path)
        return InputError(
            f"{self.path}: {link}" if link else f"{self.path}: cannot be read ({error.strerror}); look at the path"
        )

    def _fault(self, what: str) -> InputError:
        return InputError(f"{self.path}: is no safetensors file: {what}; fetch the file again, or do not trust it")


@cache
def _e4m3_values() -> npt.NDArray[np.float32]:
    """Return the number of each byte of float8 e4m3fn: bias 7, no infinity, NaN at the largest exponent and mantissa.

    Micikevicius et al. 2022, https://arxiv.org/abs/2209.05433, table 1.
    """
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    size = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), np.ldexp(1 + mantissa / 8, exponent - 7))
    size[bits & 127 == 127] = np.nan
    values: npt.NDArray[np.float32] = np.where(bits < 128, size, -size).astype(np.float32)
    return values


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**63 for number in value)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table
