"""The wire format of protocol buffers, https://protobuf.dev/programming-guides/encoding, as far as ONNX needs it."""

import mmap
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Data", "Field", "fields", "numbers", "tagged", "varint", "write_varint"]

Data = bytes | mmap.mmap

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
"""Wire types. Groups (3 and 4) occur nowhere in ONNX."""


class Field(NamedTuple):
    """Place of a field in a file.

    Attributes:
        number: In the message.
        begin: Offset of its tag.
        first: Offset of its content.
        last: Offset behind it.
        measured: True for bytes, strings and messages, which have a length.
    """

    number: int
    begin: int
    first: int
    last: int
    measured: bool


def fields(data: Data, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message between two offsets.

    Raises:
        ValueError: The bytes are no message.
        IndexError: The file ends before the message.
    """
    while start < end:
        begin = start
        tag, start = varint(data, start)
        number, wire = tag >> 3, tag & 7
        first = start
        if wire == _LENGTH:
            size, first = varint(data, start)
            start = first + size
        elif wire == _VARINT:
            _, start = varint(data, start)
        elif wire in (_FIXED32, _FIXED64):
            start += 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        yield Field(number, begin, first, start, wire == _LENGTH)
    if start != end:
        raise ValueError("a field ends behind its message")


def varint(data: Data, start: int) -> tuple[int, int]:
    """Return the number at an offset, and the offset behind it.

    Raises:
        ValueError: It has more than ten bytes.
        IndexError: The file ends before it.
    """
    value, shift = 0, 0
    while shift < 70:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
    raise ValueError("a number has more than ten bytes")


def numbers(data: Data, field: Field) -> list[int]:
    """Return the numbers of a repeated field, packed or not."""
    found, start = [], field.first
    while start < field.last:
        value, start = varint(data, start)
        found.append(value)
    return found


def write_varint(value: int) -> bytes:
    """Return the bytes of a number that is not negative."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def tagged(number: int, content: bytes) -> bytes:
    """Return the bytes of a field with a length."""
    return write_varint(number << 3 | _LENGTH) + write_varint(len(content)) + content
