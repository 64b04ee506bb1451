"""Arguments for networks that join a denoiser: one value for all of them, or one for each."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.tensors import is_tensor

__all__ = ["check_counts", "number_for_each"]


def number_for_each(
    name: str, value: float | Sequence[float | None] | None, count: int, default: float, kind: str
) -> list[float]:
    """Return one number for each network.

    Args:
        name: Of the argument.
        value: One number for all networks, or a list with one for each; None is the default.
        count: Number of networks.
        default: As said.
        kind: Name of the networks in a message, such as "ControlNet".

    Raises:
        InputError: Something else than numbers, or a list of another length.
    """
    given: Any = value
    values = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given] * count
    if len(values) != count:
        raise InputError(f"{name}: got {len(values)} numbers, expected one, or {count}: one for each {kind}")
    numbers = [default if one is None else one for one in values]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not np.isfinite(number):
            raise InputError(f"{name}: got {number!r}, expected a number")
    return numbers


def check_counts(name: str, images: Sequence[Any], prompts: int, kind: str) -> None:
    """Refuse inputs that are neither one image for all prompts nor one for each.

    Args:
        name: Of the argument.
        images: The input of each network: an image, a batch of four dimensions, or a list.
        prompts: Number of prompts.
        kind: As in `number_for_each`.

    Raises:
        InputError: As said.
    """
    for number, image in enumerate(images):
        shown = _count(image)
        if shown not in (1, prompts):
            which = f" of {kind} {number + 1}" if len(images) > 1 else ""
            raise InputError(f"{name}{which}: got {shown} images for {prompts} prompts, expected one, or one for each")


def _count(image: Any) -> int:
    if isinstance(image, list):
        return len(image)
    return int(image.shape[0]) if (isinstance(image, np.ndarray) or is_tensor(image)) and image.ndim == 4 else 1
