"""The weight file: 64-byte records of a type, a size and an offset, each followed by its data.

apple/coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp and BlobDataType.hpp.
"""

import struct
from pathlib import Path

import numpy as np

__all__ = ["WeightFile", "unpack_bits"]

_SENTINEL = 0xDEADBEEF
_HEADER = struct.Struct("<II")
_RECORD = struct.Struct("<IIQQQ")

_WHOLE = {1: "<f2", 2: "<f4", 3: "u1", 4: "i1", 6: "<i2", 7: "<u2", 14: "<i4", 15: "<u4"}
"""BlobDataType to NumPy's name."""

_PACKED = {8: (4, True), 9: (1, False), 10: (2, False), 11: (4, False), 12: (3, False), 13: (6, False)}
"""BlobDataType to bits and whether they are signed."""


class WeightFile:
    """`weight.bin`, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self.count, version = _HEADER.unpack(self._bytes[: _HEADER.size].tobytes())
        if version != 2:
            raise ValueError(f"{path}: storage format {version}, this reader knows 2")

    def read(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        """The array whose record lies at `offset`; numbers of less than eight bits come as int8 or uint8."""
        record = self._bytes[offset : offset + _RECORD.size].tobytes()
        sentinel, kind, size, start, padding = _RECORD.unpack(record)
        if sentinel != _SENTINEL:
            raise ValueError(f"no record at offset {offset}")
        data = self._bytes[start : start + size]
        count = int(np.prod(shape))
        if kind in _WHOLE:
            array = data.view(_WHOLE[kind])
        else:
            bits, signed = _PACKED[kind]
            if padding >= 8 or size * 8 - padding != count * bits:
                raise ValueError(f"record at {offset}: {size} bytes less {padding} bits for {count} of {bits} bits")
            array = unpack_bits(data, bits, count, signed=signed)
        if array.size != count:
            raise ValueError(f"record at {offset} has {array.size} numbers, declared are {shape}")
        return array.reshape(shape)


def unpack_bits(data: np.ndarray, bits: int, count: int, *, signed: bool = False) -> np.ndarray:
    """`count` numbers of `bits` bits out of bytes: a stream of bits, in each byte the lowest first."""
    stream = np.unpackbits(np.ascontiguousarray(data), bitorder="little")[: count * bits].reshape(count, bits)
    numbers = (stream.astype(np.int16) << np.arange(bits, dtype=np.int16)).sum(axis=1)
    if signed:
        numbers = np.where(numbers >= 1 << (bits - 1), numbers - (1 << bits), numbers)
    return numbers.astype(np.int8 if signed else np.uint8)
