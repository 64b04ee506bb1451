"""Reads image files of users: upright, of common formats only, with every failure as an `InputError`."""

import os
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FORMATS", "drop_opaque_alpha", "is_transparent", "read_array_file", "read_image", "read_image_file"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow knows more, and starts another program for some of them: ghostscript for PostScript."""

_WORDS = {"WEBP": "WebP"}
"""Formats to their names in sentences."""

_MAX_PIXELS = 178_956_970
"""Pillow's bound for a decompression bomb; a photograph of today has up to 108 million pixels."""


def read_image_file(path: str | os.PathLike[str], subject: str) -> "Image":
    """Read an image file and turn it upright, as its EXIF orientation says.

    The result has no alpha channel if that was opaque everywhere. diffusers: `load_image`, which drops every alpha, and
    takes the first of several frames.

    Args:
        path: The file.
        subject: Option or argument, for messages: "--image".

    Raises:
        InputError: No such file, another format, a damaged file, several frames, or too many pixels.
    """
    subject = f"{subject} {path}"
    try:
        with Path(path).open("rb") as stream:
            return read_image(stream, subject)
    except OSError as error:
        raise InputError(
            f"{subject}: cannot be read ({error.strerror or error}); expected an image such as a PNG or JPEG"
        ) from error


def read_image(
    stream: BinaryIO, subject: str, *, formats: tuple[str, ...] = FORMATS, most_pixels: int = _MAX_PIXELS
) -> "Image":
    """Read an image as `read_image_file` does, from an open file.

    Args:
        stream: At the start of the image.
        subject: Option or argument, for messages.
        formats: Those of Pillow that are accepted.
        most_pixels: Width times height; more are refused before they are decoded.

    Raises:
        InputError: Another format, a damaged file, several frames, or too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    frames = 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(stream, formats=formats)
            # The further images of an MPO, which phones write as JPEG, are previews and depths of the first.
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if frames == 1 and image.width * image.height <= most_pixels:
                image.load()
                return drop_opaque_alpha(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise InputError(_too_many(subject, most_pixels)) from error
    except UnidentifiedImageError as error:
        listed = (
            ", ".join(_WORDS.get(name, name) for name in formats[:-1]) + f" or {_WORDS.get(formats[-1], formats[-1])}"
        )
        raise InputError(f"{subject}: cannot be read as an image, expected a file in {listed}") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{subject}: cannot be read ({reason}); expected an image such as a PNG or JPEG") from error
    except Exception as error:  # a decoder that meets a damaged file raises anything
        raise InputError(
            f"{subject}: cannot be read ({type(error).__name__}: {error}); the image is damaged, save it again"
        ) from error
    if frames > 1:
        raise InputError(f"{subject}: got {frames} frames, expected an image of one; save the one that you mean alone")
    raise InputError(_too_many(subject, most_pixels))


def _too_many(subject: str, most_pixels: int) -> str:
    return f"{subject}: got too many pixels, expected at most {most_pixels:,}; scale it down"


def read_array_file(path: str | os.PathLike[str], subject: str, channels: Collection[int] = (3,)) -> NDArray[Any]:
    """Read an array of floats (height, width, 3) from a .npy file, such as one with -1 where an image is masked.

    Args:
        path: The file, written by `numpy.save`.
        subject: As in `read_image_file`.
        channels: Lengths that the last axis may have.

    Raises:
        InputError: No such file, a damaged one, or another kind of array.
    """
    try:
        values: NDArray[Any] = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InputError(
            f"{subject} {path}: cannot be read ({reason}); expected an array of floats written by numpy.save"
        ) from error
    if values.dtype.kind != "f" or values.ndim != 3 or values.shape[2] not in channels or not values.size:
        known = " or ".join(map(str, sorted(channels)))
        raise InputError(
            f"{subject} {path}: got {values.dtype} of shape {values.shape}, expected floats of shape (height, width, "
            f"{known})"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{subject} {path}: got NaN or infinity, expected finite numbers")
    return values.astype(np.float32)


def is_transparent(image: "Image") -> bool:
    """Return whether some pixel of an image is not opaque."""
    if not _has_alpha(image):
        return False
    return image.convert("RGBA").getchannel("A").getextrema()[0] != 255


def drop_opaque_alpha(image: "Image") -> "Image":
    """Return the image without its alpha channel if every pixel is opaque, else as it is."""
    if not _has_alpha(image) or is_transparent(image):
        return image
    opaque = image.convert("RGBA").convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")
    opaque.info.pop("transparency", None)
    return opaque


def _has_alpha(image: "Image") -> bool:
    """Return whether an image of 8 bits a channel can have transparent pixels; Pillow converts others wrongly."""
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"):
        return False
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    return image.mode[-1] in "Aa" or palette.endswith("A") or "transparency" in image.info
