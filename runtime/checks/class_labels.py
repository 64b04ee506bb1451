"""Class labels of a call: numbers of classes, or names of them."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.checks.arguments import is_whole
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import shorten
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["ClassLabels", "count_labels", "read_labels", "spread_labels"]

ClassLabels: TypeAlias = int | str | Sequence[int | str]
"""Number or name of a class for all images, or one for each."""


_STRIDE = 389
"""Prime, so that few seeds share a class."""


def count_labels(labels: ClassLabels | None) -> int:
    """Return the number of labels; one label counts for every image."""
    return len(labels) if _is_list(labels) else 1  # type: ignore[arg-type]


def read_labels(
    labels: ClassLabels | None, images: int, classes: int, names: Mapping[str, int], *, has_null: bool = False
) -> npt.NDArray[np.int32]:
    """Return the number of the class of each image, int32 (images,).

    Args:
        labels: Of the call.
        images: Number of images.
        classes: Number of classes.
        names: Name of a class to its number; empty where the checkpoint has no names.
        has_null: True if the number after the last class is taken too: no class.

    Raises:
        InputError: There are none, too many or too few; a number is out of range; a name is unknown.
    """
    range_ = f"0 to {classes - 1}" + (f", or {classes} for no class" if has_null else "")
    if labels is None or (_is_list(labels) and not len(labels)):  # type: ignore[arg-type]
        raise InputError(f"class_labels: got none, expected the number of a class for each image, {range_}")
    given: list[Any] = list(labels) if _is_list(labels) else [labels]  # type: ignore[arg-type]
    if len(given) not in (1, images):
        raise InputError(f"class_labels: got {len(given)} of them, expected one, or {images}: one for each image")
    numbers = [_number(label, classes + has_null, range_, names) for label in given]
    return np.asarray(numbers * (images if len(numbers) == 1 else 1), np.int32)


def spread_labels(seeds: Sequence[int], classes: int) -> list[int]:
    """Return a class for each seed, far from that of the next seed, so that a measurement sees many."""
    return [seed * _STRIDE % classes for seed in seeds]


def _is_list(labels: Any) -> bool:
    return isinstance(labels, Sequence | np.ndarray) and not isinstance(labels, str)


def _number(label: Any, count: int, range_: str, names: Mapping[str, int]) -> int:
    if isinstance(label, str):
        return _number_of_name(label, range_, names)
    if not is_whole(label) or not 0 <= label < count:
        raise InputError(f"class_labels: got {shorten(label)}, expected the number of a class, {range_}")
    return int(label)


def _number_of_name(label: str, range_: str, names: Mapping[str, int]) -> int:
    if label in names:
        return names[label]
    if not names:
        raise InputError(
            f"class_labels: got {shorten(label)}, expected a number, {range_}: this checkpoint has no names of classes"
        )
    raise InputError(
        f"class_labels: got {shorten(label)}, expected a number, {range_}, or one of the checkpoint's "
        f"{len(names)} names, such as {next(iter(names))!r}.{did_you_mean(label, names)}"
    )
