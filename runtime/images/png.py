"""PNG files that hold their settings in text chunks. Reading treats every file as untrusted."""

import os
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from diffoundry.runtime.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SIGNATURE", "encode_png", "read_png_settings"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_KEYWORD = "diffoundry"
_MAX_TEXT = 2**20  # Pillow opens no PNG with more in one text chunk
_MAX_CHUNKS = 100_000  # 8 kB each, the smallest that encoders write, are 800 MB


def encode_png(image: "Image", settings: str, parameters: str) -> bytes:
    """Return a PNG file with two text chunks: "diffoundry" for us, "parameters" for other programs.

    Args:
        image: Mode "L", "RGB" or "RGBA"; its own metadata is not written.
        settings: The document of `dump_settings`.
        parameters: The text of `format_parameters`.
    """
    from PIL.PngImagePlugin import PngInfo

    bare = image.copy()
    bare.info = {}  # Pillow would write the colour profile, transparency and EXIF data of the source
    texts = PngInfo()
    texts.add_text(_KEYWORD, settings)
    texts.add_text("parameters", parameters)
    buffer = BytesIO()
    bare.save(buffer, format="PNG", pnginfo=texts, compress_level=6)
    return buffer.getvalue()


def read_png_settings(stream: BinaryIO, path: Path) -> bytes | None:
    """Read the document of `dump_settings` from a PNG file, or None; no pixels are decoded and nothing is unpacked.

    Args:
        stream: After the signature.
        path: Of the file, for messages.

    Raises:
        InputError: The file is damaged or hostile.
    """
    texts = [data for data in _text_chunks(stream, path) if data.startswith(_KEYWORD.encode() + b"\0")]
    if len(texts) > 1:
        raise InputError(f"image {path}: got settings {len(texts)} times, expected once; do not trust it")
    return texts[0][len(_KEYWORD) + 1 :] if texts else None


def _text_chunks(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield the data of every tEXt chunk. Specification: https://www.w3.org/TR/png-3/, sections 5.2 and 11.3.3."""
    for _ in range(_MAX_CHUNKS):
        head = stream.read(8)
        if len(head) < 8:
            raise InputError(f"image {path}: the PNG file ends too early; copy it again, whole")
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return
        if kind == b"tEXt":
            yield _read_text(stream, length, path)
        else:
            stream.seek(length + 4, os.SEEK_CUR)
    raise InputError(f"image {path}: got more than {_MAX_CHUNKS} chunks, expected an image; do not trust it")


def _read_text(stream: BinaryIO, length: int, path: Path) -> bytes:
    if length > _MAX_TEXT:
        raise InputError(
            f"image {path}: got a text chunk of {length} bytes, expected at most {_MAX_TEXT}; do not trust it"
        )
    data, check = stream.read(length), stream.read(4)
    if check != struct.pack(">I", zlib.crc32(b"tEXt" + data)):
        raise InputError(f"image {path}: a text chunk is damaged; copy the file again")
    return data
