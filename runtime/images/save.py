"""Saves images with their settings inside, and reads the settings back."""

import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.exif import MAX_JPEG_EXIF, encode_jpeg, encode_webp, make_exif, read_exif_settings
from diffoundry.runtime.images.parameters import format_parameters
from diffoundry.runtime.images.png import SIGNATURE, encode_png, read_png_settings
from diffoundry.runtime.images.settings import JSON, dump_settings, parse_settings

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "SUFFIXES",
    "TRANSPARENT_SUFFIXES",
    "check_output_path",
    "check_settings",
    "encode_image",
    "read_settings",
    "save_image",
    "write_whole",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

TRANSPARENT_SUFFIXES = (".png", ".webp")
"""Of formats with an alpha channel."""

_JPEG = (".jpg", ".jpeg")
_MODES = ("L", "RGB", "RGBA")
_WEBP_SIDE = 16383
"""Pixels; the format has 14 bits for a side."""


def check_output_path(path: str | os.PathLike[str], suffixes: Sequence[str] = SUFFIXES) -> Path:
    """Convert to `Path` and check that an image can be written there; call it before generating.

    Args:
        path: The file.
        suffixes: Its possible endings; the message of an error suggests the first.

    Raises:
        InputError: Another suffix, a folder, or a place that does not exist or takes no files.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise InputError(
            f"image {path}: got the suffix {path.suffix!r}, expected one of {', '.join(suffixes)}; "
            f"name it {path.stem}{suffixes[0]}"
        )
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise InputError(f"image {path}: cannot be written ({error.strerror}); choose another name") from error
    if not path.parent.is_dir():
        raise InputError(f"image {path}: its folder {path.parent} does not exist; make it, or choose another")
    if path.is_dir():
        raise InputError(f"image {path}: got a folder, expected the path of a file; add a name to it")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"image {path}: its folder {path.parent} takes no files; choose another")
    return path


def check_settings(settings: Mapping[str, JSON], path: str | os.PathLike[str], size: tuple[int, int]) -> None:
    """Check that `save_image` can write these settings; call it before generating.

    Args:
        settings: As `save_image`.
        path: As `save_image`.
        size: Width and height of the image in pixels.

    Raises:
        InputError: As `save_image`.
    """
    _metadata(settings, Path(path), size)


def save_image(image: "Image", path: str | os.PathLike[str], settings: Mapping[str, JSON]) -> None:
    """Write an image with its settings inside. The same image and settings give the same bytes.

    All settings are stored as JSON, in a text chunk of a PNG file or in the EXIF data of others. The text "parameters"
    shows them to other programs as AUTOMATIC1111's web UI does. The file is written under another name and renamed, so
    it is whole or absent. A JPEG file changes the pixels slightly; PNG and WebP files keep them.

    Args:
        image: Mode "L", "RGB" or "RGBA"; its own metadata is not written.
        path: Ends in one of `SUFFIXES`; its folder exists.
        settings: Keyed by the names of diffusers' arguments.

    Raises:
        InputError: The path or the settings cannot be written; the message says why.
    """
    path = check_output_path(path)
    write_whole(path, encode_image(image, path, settings))


def encode_image(
    image: "Image", path: str | os.PathLike[str], settings: Mapping[str, JSON], quality: int | None = None
) -> bytes:
    """Return the bytes of the file that `save_image` writes.

    Args:
        image: As `save_image`.
        path: Its ending names the format; nothing is written.
        settings: As `save_image`.
        quality: 0 to 100, of JPEG and WebP; None is 95 for JPEG, and a WebP file that keeps every pixel.

    Raises:
        InputError: As `save_image`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    modes = _MODES[:2] if suffix in _JPEG else _MODES
    if image.mode not in modes:
        raise InputError(f"image {path}: got the mode {image.mode!r}, expected one of {', '.join(modes)}; convert it")
    document, parameters, exif = _metadata(settings, path, image.size)
    if suffix == ".png":
        return encode_png(image, document, parameters)
    return encode_jpeg(image, exif, quality) if suffix in _JPEG else encode_webp(image, exif, quality)


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the settings that `save_image` wrote into an image; no pixels are decoded.

    Raises:
        InputError: No such file, another format, no settings in it, or settings that are damaged or of a newer version.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(12)
            if head.startswith(SIGNATURE):
                stream.seek(len(SIGNATURE))
                document = read_png_settings(stream, path)
            elif head.startswith(b"\xff\xd8\xff") or (head[:4], head[8:]) == (b"RIFF", b"WEBP"):
                stream.seek(0)
                document = read_exif_settings(stream, path)
            else:
                raise InputError(f"image {path}: not a PNG, JPEG or WebP file, expected one generated by diffoundry")
    except OSError as error:
        raise InputError(f"image {path}: cannot be read ({error.strerror}); give the path of an image file") from error
    if document is None:
        raise InputError(
            f"image {path}: got an image without settings, expected one generated by diffoundry; "
            f"programs that edit or send images often remove them"
        )
    return parse_settings(document, path)


def _metadata(settings: Mapping[str, JSON], path: Path, size: tuple[int, int]) -> tuple[str, str, bytes]:
    """Return the document, the text for other programs, and both as EXIF data, which a PNG file does not have."""
    document, parameters = dump_settings(settings, path), format_parameters(settings, size)
    suffix = path.suffix.lower()
    if suffix == ".png":
        return document, parameters, b""
    exif = make_exif(document, parameters)
    if suffix in _JPEG and len(exif) > MAX_JPEG_EXIF:
        raise InputError(
            f"image {path}: got {len(exif)} bytes of settings, expected at most {MAX_JPEG_EXIF} in a JPEG file; name "
            f"it {path.stem}.png"
        )
    if suffix == ".webp" and max(size) > _WEBP_SIDE:
        raise InputError(
            f"image {path}: got {size[0]} x {size[1]} pixels, expected at most {_WEBP_SIDE} to a side in a WebP file; "
            f"name it {path.stem}.png"
        )
    return document, parameters, exif


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name and rename it, so that it is whole or absent.

    Raises:
        InputError: It cannot be written.
    """
    draft = path.with_name(f".diffoundry-{secrets.token_hex(8)}.tmp")
    try:
        with draft.open("xb") as stream:
            stream.write(data)
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise InputError(f"image {path}: cannot be written ({error.strerror}); choose another folder") from error
