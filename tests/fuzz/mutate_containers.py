"""Damages the JSON inside of PNG and safetensors files and makes the rest fit, so that it reaches its reader."""

import struct
import zlib
from random import Random

from mutate import mutate

__all__ = ["mutate_png", "mutate_safetensors"]

_SIGNATURE = 8


def mutate_png(content: bytes, random: Random) -> bytes:
    """Damage a PNG, in most cases the settings in its text chunk."""
    if random.random() < 0.3:
        return mutate(content, random, kind="bytes")
    parts, place = [content[:_SIGNATURE]], _SIGNATURE
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        kind, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        if kind == b"tEXt" and data.startswith(b"diffoundry\0"):
            data = b"diffoundry\0" + mutate(data[len(b"diffoundry\0") :], random, kind="json")
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
        place += length + 12
    return b"".join(parts)


def mutate_safetensors(content: bytes, random: Random) -> bytes:
    """Damage a safetensors file, in most cases its header, whose length is made to fit."""
    if random.random() < 0.3:
        return mutate(content, random, kind="bytes")
    (length,) = struct.unpack_from("<Q", content)
    header = mutate(content[8 : 8 + length], random, kind="json")
    return struct.pack("<Q", len(header)) + header + content[8 + length :]
