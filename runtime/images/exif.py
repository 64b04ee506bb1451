"""JPEG and WebP files that hold their settings in EXIF. Reading treats every file as untrusted."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from diffoundry.runtime.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MAX_JPEG_EXIF", "encode_jpeg", "encode_webp", "make_exif", "read_exif_settings"]

MAX_JPEG_EXIF = 65533
"""Bytes of one segment of a JPEG file, without its length."""

_EXIF_IFD, _MAKER_NOTE, _USER_COMMENT = 0x8769, 0x927C, 0x9286
_KEYWORD = b"diffoundry\0"


def make_exif(settings: str, parameters: str) -> bytes:
    """Return EXIF data with two tags: the maker's note for us, the user's comment for other programs.

    AUTOMATIC1111's web UI writes the comment, in UTF-16.

    Args:
        settings: The document of `dump_settings`.
        parameters: The text of `format_parameters`.
    """
    from PIL.Image import Exif

    exif = Exif()
    tags = exif.get_ifd(_EXIF_IFD)
    tags[_MAKER_NOTE] = _KEYWORD + settings.encode("ascii")
    tags[_USER_COMMENT] = b"UNICODE\0" + parameters.encode("utf-16-be")
    return exif.tobytes()


def encode_jpeg(image: "Image", exif: bytes, quality: int | None = None) -> bytes:
    """Return a JPEG file, by default of quality 95, with colours in full resolution."""
    buffer = BytesIO()
    image.save(
        buffer,
        format="JPEG",
        quality=95 if quality is None else quality,
        subsampling=0,
        exif=exif,
        icc_profile=None,
        comment="",
    )
    return buffer.getvalue()


def encode_webp(image: "Image", exif: bytes, quality: int | None = None) -> bytes:
    """Return a WebP file that keeps every pixel, or one of a quality from 0 to 100."""
    buffer = BytesIO()
    how: dict[str, Any] = {"lossless": True} if quality is None else {"quality": quality}
    image.save(buffer, format="WEBP", **how, exif=exif, icc_profile="", xmp=b"")
    return buffer.getvalue()


def read_exif_settings(stream: BinaryIO, path: Path) -> bytes | None:
    """Read the document of `dump_settings` from a JPEG or WebP file, or None; no pixels are decoded.

    Args:
        stream: At the start of the file.
        path: Of the file, for messages.

    Raises:
        InputError: The file is damaged.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels, which stay packed
            note = Image.open(stream, formats=("JPEG", "WEBP")).getexif().get_ifd(_EXIF_IFD).get(_MAKER_NOTE)
    except Exception as error:  # a decoder that meets a damaged file raises anything
        raise InputError(f"image {path}: its EXIF data cannot be read ({error}); copy the file again") from error
    return note.removeprefix(_KEYWORD) if isinstance(note, bytes) and note.startswith(_KEYWORD) else None
