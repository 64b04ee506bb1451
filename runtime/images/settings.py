"""The settings of an image as a JSON document with a version. Reading treats it as untrusted."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.untrusted_json import load_json

__all__ = ["FORMAT_VERSION", "JSON", "MAX_SETTINGS", "dump_settings", "parse_settings"]

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

# One line a version, newest first: its form, and how this reader treats it.
#   1: {"format_version": 1, "settings": {...}}. Read.
FORMAT_VERSION = 1

MAX_SETTINGS = 2**19
"""Bytes of the document; Pillow opens no PNG with more than twice that in one text chunk."""


def dump_settings(settings: Mapping[str, JSON], path: str | os.PathLike[str]) -> str:
    """Return the document, in ASCII.

    Args:
        settings: Keyed by the names of diffusers' arguments.
        path: Of the image, for messages.

    Raises:
        InputError: JSON cannot hold the settings, or would change them, or there are too many.
    """
    document = {"format_version": FORMAT_VERSION, "settings": dict(settings)}
    try:
        text = json.dumps(document, sort_keys=True, allow_nan=False)
        if json.loads(text) != document:  # keys that are no strings, tuples: reading must give back the same value
            raise InputError(f"image {path}: got settings that JSON would change, expected only JSON's own types")
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"image {path}: got settings that JSON cannot hold ({error}); convert them") from error
    if len(text) > MAX_SETTINGS:
        raise InputError(
            f"image {path}: got {len(text)} bytes of settings, expected at most {MAX_SETTINGS}; shorten the prompts, "
            f"or generate fewer at once"
        )
    return text


def parse_settings(data: bytes, path: Path) -> dict[str, Any]:
    """Return the settings of a document.

    Raises:
        InputError: It is damaged, or of a newer version.
    """
    try:
        document = load_json(data.decode("latin-1"))
    except ValueError as error:
        raise InputError(f"image {path}: its settings are not JSON ({error}); generate it again") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise InputError(
            f"image {path}: its settings have format version {version}, expected at most {FORMAT_VERSION}; "
            f"upgrade diffoundry"
        )
    settings = document.get("settings") if isinstance(document, dict) else None
    if type(version) is not int or version != FORMAT_VERSION or not isinstance(settings, dict):
        raise InputError(f"image {path}: its settings have another form than diffoundry writes; generate it again")
    return settings
