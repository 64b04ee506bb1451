"""Sorts the arguments of a call into the dataclasses that hold them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from diffoundry.runtime.checks.arguments import check_kind
from diffoundry.runtime.errors import InputError, UnknownArgumentError
from diffoundry.runtime.formats.config_values import shorten

__all__ = ["misplaced_argument", "sort_arguments"]


def sort_arguments(
    arguments: Mapping[str, Any], kinds: Sequence[type[Any]], hint: Callable[[str], str | None]
) -> list[Any]:
    """Make one object of each kind from the arguments that are its fields.

    Args:
        arguments: Name to value.
        kinds: Dataclasses without a field in common.
        hint: Name of an argument that none of them has, to the way to use it; None when there is no such argument.

    Raises:
        UnknownArgumentError: An argument that nothing takes.
        InputError: An argument of another task, or a missing one.
    """
    names = [{field.name for field in fields(kind)} for kind in kinds]
    types = {field.name: field.type for kind in kinds for field in fields(kind)}
    for name, value in arguments.items():
        if name not in types:
            way = hint(name)
            raise InputError(f"{name}: {way}") if way else UnknownArgumentError(name, sorted(types))
        check_kind(name, value, types[name])
    for kind in kinds:
        for field in fields(kind):
            if field.default is MISSING and field.default_factory is MISSING and field.name not in arguments:
                raise InputError(f"{field.name}: got none, expected one")
    pairs = zip(kinds, names, strict=True)
    return [kind(**{name: value for name, value in arguments.items() if name in own}) for kind, own in pairs]


def misplaced_argument(
    error: UnknownArgumentError, given: Mapping[str, Any], kind_of: Callable[[Sequence[str]], type[Any]]
) -> InputError:
    """Return a better error of an argument that a call takes with one image more, or without one; else the same error.

    Args:
        error: Of `sort_arguments`.
        given: The arguments of the call that are not None.
        kind_of: Names of arguments to the dataclass that takes them.
    """
    name = error.name
    for image in ("image", "original_image") if name in given else ():
        without = [one for one in given if one not in (image, "mask_image")]
        others = without if image in given else [*given, image]
        if name not in {field.name for field in fields(kind_of(others))}:
            continue
        if image in given:
            return InputError(f"{image} and {name}: got both, expected at most one of them")
        return InputError(
            f"{name}: got {shorten(given[name])} without an image that it acts on; pass {image} too, or leave it out"
        )
    return error
