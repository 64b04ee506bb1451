"""PNG files that hold how they were painted, and reading it back from files of strangers."""

import contextlib
import json
import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from diffoundry.runtime.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FORMAT_VERSION", "JSON", "check_png_path", "read_settings", "save_png"]

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

# One line a version, newest first: what changed, and what this reader makes of it.
#   1: {"format_version": 1, "settings": {...}} in a tEXt chunk. Read.
FORMAT_VERSION = 1

_KEYWORD = "diffoundry"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_TEXT = 2**20  # Pillow opens no PNG with more in one text chunk
_MAX_CHUNKS = 100_000  # 8 kB each, the smallest that encoders write, are 800 MB
_MODES = ("L", "RGB", "RGBA")

# The names that the web UI of AUTOMATIC1111 gives to diffusers' arguments, in its order.
_PARAMETERS = {
    "num_inference_steps": "Steps",
    "scheduler": "Sampler",
    "guidance_scale": "CFG scale",
    "seed": "Seed",
    "guidance_rescale": "CFG rescale",
    "eta": "Eta",
    "bundle": "Model",
}


def check_png_path(path: str | os.PathLike[str]) -> Path:
    """The path as a `Path`, when a picture can be written there; ask before the painting, not after.

    Raises:
        InputError: Another suffix than .png, or a folder that does not exist.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"picture {path}: got the suffix {path.suffix!r}, expected '.png'; name it {path.stem}.png")
    if not path.parent.is_dir():
        raise InputError(f"picture {path}: its folder {path.parent} does not exist; make it, or choose another")
    return path


def save_png(image: "Image", path: str | os.PathLike[str], settings: Mapping[str, JSON]) -> None:
    """Write a picture with its settings inside; the same picture and settings give the same bytes.

    The text chunk "diffoundry" holds all settings as JSON; the chunk "parameters" shows them to other programs in the
    form of AUTOMATIC1111's web UI. The file is written beside its place and renamed: it is whole or not there.

    Args:
        image: Mode "L", "RGB" or "RGBA"; of its metadata nothing is written.
        path: Ends in .png; its folder exists.
        settings: Under the names of diffusers' arguments.

    Raises:
        InputError: The path or the settings cannot be written; the message says why.
    """
    path = check_png_path(path)
    if image.mode not in _MODES:
        raise InputError(
            f"picture {path}: got the mode {image.mode!r}, expected one of {', '.join(_MODES)}; convert it"
        )
    _write_whole(path, _encode(image, _dump(settings, path), _parameters(settings, image.size)))


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that `save_png` wrote into a picture.

    Only the chunk's own bytes are read: no pixels, nothing is unpacked.

    Raises:
        InputError: No such file, no PNG, no settings in it, or settings that are damaged or of a newer version.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            texts = [data for data in _text_chunks(stream, path) if data.startswith(_KEYWORD.encode() + b"\0")]
    except OSError as error:
        raise InputError(f"picture {path}: cannot be read ({error.strerror}); give the path of a PNG file") from error
    if not texts:
        raise InputError(
            f"picture {path}: got a PNG without settings, expected one painted by diffoundry; "
            f"programs that edit or send pictures often remove them"
        )
    if len(texts) > 1:
        raise InputError(f"picture {path}: got settings {len(texts)} times, expected once; do not trust it")
    return _parse(texts[0][len(_KEYWORD) + 1 :], path)


def _dump(settings: Mapping[str, JSON], path: Path) -> str:
    document = {"format_version": FORMAT_VERSION, "settings": dict(settings)}
    try:
        text = json.dumps(document, sort_keys=True, allow_nan=False)
        if json.loads(text) != document:  # keys that are no strings, tuples: what is read back must be what was given
            raise InputError(f"picture {path}: got settings that JSON would change, expected only JSON's own types")
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"picture {path}: got settings that JSON cannot hold ({error}); convert them") from error
    if len(text) > _MAX_TEXT // 2:
        raise InputError(
            f"picture {path}: got {len(text)} bytes of settings, expected at most {_MAX_TEXT // 2}; drop some"
        )
    return text


def _parameters(settings: Mapping[str, JSON], size: tuple[int, int]) -> str:
    """The settings as AUTOMATIC1111's web UI writes them: prompt, negative prompt, then "Steps: 20, Seed: 1"."""
    lines = [str(settings.get("prompt", ""))]
    if settings.get("negative_prompt"):
        lines.append(f"Negative prompt: {settings['negative_prompt']}")
    pairs = {label: settings[key] for key, label in _PARAMETERS.items() if settings.get(key) is not None}
    lines.append(
        ", ".join(f"{label}: {_quote(value)}" for label, value in {**pairs, "Size": "x".join(map(str, size))}.items())
    )
    return "\n".join(lines).replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _quote(value: JSON) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:\n"') else text


def _encode(image: "Image", settings: str, parameters: str) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    bare = image.copy()
    bare.info = {}  # Pillow would write the colour profile, transparency and EXIF data of the source
    texts = PngInfo()
    texts.add_text(_KEYWORD, settings)
    texts.add_text("parameters", parameters)
    buffer = BytesIO()
    bare.save(buffer, format="PNG", pnginfo=texts, compress_level=6)
    return buffer.getvalue()


def _write_whole(path: Path, data: bytes) -> None:
    if path.is_dir():
        raise InputError(f"picture {path}: got a folder, expected the path of a file; add a name to it")
    draft = path.with_name(f".diffoundry-{secrets.token_hex(8)}.tmp")
    try:
        with draft.open("xb") as stream:
            stream.write(data)
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise InputError(f"picture {path}: cannot be written ({error.strerror}); choose another folder") from error


def _text_chunks(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    """The data of every tEXt chunk of a PNG. Specification: https://www.w3.org/TR/png-3/, sections 5.2 and 11.3.3."""
    if stream.read(len(_SIGNATURE)) != _SIGNATURE:
        raise InputError(f"picture {path}: not a PNG file, expected one painted by diffoundry")
    for _ in range(_MAX_CHUNKS):
        head = stream.read(8)
        if len(head) < 8:
            raise InputError(f"picture {path}: the PNG file ends too early; copy it again, whole")
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return
        if kind == b"tEXt":
            yield _read_text(stream, length, path)
        else:
            stream.seek(length + 4, os.SEEK_CUR)
    raise InputError(f"picture {path}: got more than {_MAX_CHUNKS} chunks, expected a picture; do not trust it")


def _read_text(stream: BinaryIO, length: int, path: Path) -> bytes:
    if length > _MAX_TEXT:
        raise InputError(
            f"picture {path}: got a text chunk of {length} bytes, expected at most {_MAX_TEXT}; do not trust it"
        )
    data, check = stream.read(length), stream.read(4)
    if check != struct.pack(">I", zlib.crc32(b"tEXt" + data)):
        raise InputError(f"picture {path}: a text chunk is damaged; copy the file again")
    return data


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(data.decode("latin-1"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"picture {path}: its settings are not JSON ({error}); paint it again") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise InputError(
            f"picture {path}: its settings have format version {version}, expected at most {FORMAT_VERSION}; "
            f"upgrade diffoundry"
        )
    settings = document.get("settings") if isinstance(document, dict) else None
    if type(version) is not int or version != FORMAT_VERSION or not isinstance(settings, dict):
        raise InputError(f"picture {path}: its settings have another form than diffoundry writes; paint it again")
    return settings
