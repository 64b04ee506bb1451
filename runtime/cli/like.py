"""--like of `generate`: the settings of an image, checked, and merged with the options."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from diffoundry.runtime.cli.array_files import ARRAY_SUFFIXES, read_array_settings
from diffoundry.runtime.cli.systems import SYSTEM_FILES
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import read_settings

__all__ = ["FILES", "LikeSettings", "merge_settings", "read_like"]

FILES = {
    "image": "--image",
    "mask_image": "--mask",
    "image_reference": "--image-reference",
    "adapter_image": "--adapter-image",
    "ip_adapter_image": "--image-prompt",
    "ip_adapter_masks": "--image-prompt-mask",
    "control_image": "--control-image",
    "control_mask": "--control-mask",
    "lora": "--lora",
    "embedding": "--embedding",
    **SYSTEM_FILES,
}
"""Settings that name files, which must be passed again, to their options."""

_PAIRS = ("original_size", "target_size", "crops_coords_top_left")
_LIST, _FRACTIONS = "skip_guidance_layers", "guidance_interval"
_INPUTS = ("image", "mask_image", "image_reference", "control_image", "adapter_image", "ip_adapter_image")


@dataclass(frozen=True, kw_only=True, slots=True)
class LikeSettings:
    """The settings of an image that is to be generated again.

    Attributes:
        path: Of the image.
        settings: Those that the command knows.
        defaulted: Names of settings that were defaults.
        bundle: Name of the bundle that generated it, and the hash of its model; None where the image has none.
    """

    path: Path
    settings: Mapping[str, Any]
    defaulted: frozenset[str]
    bundle: tuple[str | None, str | None]


def read_like(path: Path, command: click.Command, names: Sequence[str]) -> LikeSettings:
    """Read the settings of an image and check their types.

    Args:
        path: The image, or a .safetensors file of embeddings or latents.
        command: Its parameters say which type a setting has.
        names: Settings that are read, besides those of files.

    Raises:
        InputError: Not such an image, or a setting of another type than its option.
    """
    try:
        image = read_array_settings(path) if path.suffix.lower() == ARRAY_SUFFIXES[0] else read_settings(path)
    except InputError as error:
        raise InputError(f"--like {str(error).removeprefix('image ')}") from error
    parameters = {parameter.name: parameter for parameter in command.params}
    settings = {name: value for name, value in image.items() if name in (*names, *FILES)}
    for name, value in settings.items():
        wanted = _refuse(parameters.get(name), name, value)
        if wanted:
            raise InputError(f"--like {path}: got {name!r} {value!r}, expected {wanted}; this image was changed")
    defaulted, bundle, model = (image.get(name) for name in ("defaulted", "bundle", "model_hash"))
    return LikeSettings(
        path=path,
        settings=settings,
        defaulted=frozenset(map(str, defaulted)) if isinstance(defaulted, list) else frozenset(),
        bundle=(bundle if isinstance(bundle, str) else None, model if isinstance(model, str) else None),
    )


def merge_settings(
    like: LikeSettings, given: Mapping[str, Any], files: Mapping[str, Sequence[Any]], *, same_bundle: bool
) -> tuple[dict[str, Any], frozenset[str]]:
    """Merge the settings of an image with the options; options win.

    Settings that were defaults are kept if the bundle and the kinds of input images are the same. Otherwise the
    defaults of this bundle and this task apply.

    Args:
        like: Of the image.
        given: The options that were passed.
        files: Setting to the files that were passed.
        same_bundle: True if this bundle generated the image.

    Returns:
        The settings without files, and the names of those that were defaults.

    Raises:
        InputError: The image was generated with files, and no option names them.
    """
    missing = []
    for name, option in FILES.items():
        held = like.settings.get(name)
        held = [held] if isinstance(held, str) else held
        missing += [f"{option} {text}" for text in held or () if not files.get(name)]
    if missing:
        raise InputError(
            f"--like: the image was generated with {' '.join(missing)}; pass that too, with where the files are now"
        )
    same = same_bundle and all(bool(like.settings.get(name)) == bool(files.get(name)) for name in _INPUTS)
    dropped = set(FILES) if same else {*FILES, *like.defaulted}
    if "scheduler" in {*given, *dropped}:
        dropped.add("scheduler_options")  # of another scheduler
    if given.get("vae_tiling") is False:
        dropped.add("vae_tile_size")
    kept = {name: value for name, value in like.settings.items() if name not in dropped}
    options = {**(kept.get("scheduler_options") or {}), **(given.get("scheduler_options") or {})}
    merged = {**kept, **given, **({"scheduler_options": options} if options else {})}
    return merged, frozenset(name for name in like.defaulted if name in kept and name not in given)


def _refuse(parameter: click.Parameter | None, name: str, value: Any) -> str | None:
    """Return the type that a setting should have, in words, or None if it has it."""
    if parameter is None or value is None:
        return None
    if name in (*_PAIRS, _LIST):
        right = isinstance(value, list) and all(type(part) is int for part in value)
        right = right and (name == _LIST or len(value) == 2)
        return None if right else "a list of whole numbers" if name == _LIST else "two whole numbers"
    if name == _FRACTIONS:
        right = isinstance(value, list) and len(value) == 2 and all(type(part) in (int, float) for part in value)
        return None if right else "two numbers"
    if name == "scheduler_options":
        right = isinstance(value, dict) and all(isinstance(part, _SCALARS) for part in value.values())
        return None if right else "an object of numbers, texts and booleans"
    many = parameter.nargs == -1 or getattr(parameter, "multiple", False)
    entries = value if many and isinstance(value, list) else [value]
    check, words = _kind(parameter)
    return None if all(check(entry) for entry in entries) else f"{words}, or a list of them" if many else words


_SCALARS = (bool, int, float, str, list, type(None))


def _kind(parameter: click.Parameter) -> tuple[Callable[[Any], bool], str]:
    """Return the check of one value of an option, and the type in words."""
    if getattr(parameter, "is_flag", False):
        return lambda value: isinstance(value, bool), "true or false"
    if isinstance(parameter.type, type(click.INT)):
        return lambda value: type(value) is int, "a whole number"
    if isinstance(parameter.type, type(click.FLOAT)):
        return lambda value: type(value) in (int, float), "a number"
    if parameter.name == "class_labels":
        return lambda value: isinstance(value, str) or type(value) is int, "a number or a name"
    return lambda value: isinstance(value, str), "a text"
