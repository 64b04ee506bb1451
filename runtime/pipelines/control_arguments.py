"""What a call says of its ControlNets, under diffusers' names, checked."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.pipelines.tasks.source_images import image_size

__all__ = ["Control", "ControlInput", "images_of", "unguided"]

ControlInput: TypeAlias = "ImageInput | Sequence[ImageInput] | Sequence[Sequence[ImageInput]]"
"""For one ControlNet an image for all prompts or a list with one for each. For several ControlNets a list with a
image for each of them; or, as in diffusers, one such list for each prompt."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Control:
    """The arguments of ControlNets; a value for all of them, or a list with one for each.

    Attributes:
        control_image: What they are shown, already prepared (edges, depth ...), in the size that is generated: PIL
            images, or arrays (H, W, 3) of floats in 0..1. diffusers calls it `image` in text to image, and
            `control_image` where another image is the beginning.
        controlnet_conditioning_scale: How much they count; None is 1, or what the family says for the task.
        control_guidance_start: The fraction of the steps at which they begin.
        control_guidance_end: The fraction of the steps at which they end.
        guess_mode: Whether they are not told of the negative prompt, and their first blocks count less; for images
            without a prompt.
    """

    control_image: "ControlInput | None" = None
    controlnet_conditioning_scale: float | Sequence[float] | None = None
    control_guidance_start: float | Sequence[float] | None = None
    control_guidance_end: float | Sequence[float] | None = None
    guess_mode: bool | None = None

    def check(self, count: int, prompts: int) -> None:
        """Refuse what does not fit the ControlNets or each other.

        Args:
            count: ControlNets.
            prompts: How many there are.

        Raises:
            InputError: Subject, got, expected.
        """
        for number, image in enumerate(images_of(self.control_image, count)):
            shown = len(image) if isinstance(image, list) else _batch(image)
            if shown not in (1, prompts):
                which = f" of ControlNet {number + 1}" if count > 1 else ""
                raise InputError(
                    f"control_image{which}: got {shown} images for {prompts} prompts, expected one, or one for each"
                )
        for name in ("controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end"):
            _each(name, getattr(self, name), count, 0.0)
        for start, end in zip(self._starts(count), self._ends(count), strict=True):
            if not 0 <= start < end <= 1:
                raise InputError(
                    f"control_guidance_start and control_guidance_end: got {start:g} and {end:g}, expected "
                    f"0 <= start < end <= 1"
                )
        if self.guess_mode not in (None, True, False):
            raise InputError(f"guess_mode: got {self.guess_mode!r}, expected True or False")

    def size(self, count: int) -> tuple[int, int] | None:
        """Height and width in pixels of the images, or None without any.

        Raises:
            InputError: They differ.
        """
        if self.control_image is None:
            return None
        sizes = {image_size(image, "control_image") for image in images_of(self.control_image, count)}
        if len(sizes) > 1:
            listed = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
            raise InputError(f"control_image: got images of {listed} pixels, expected one size; resize them")
        return sizes.pop()

    def check_size(self, count: int, height: int, width: int) -> None:
        """Refuse images of another size than what is generated.

        Raises:
            InputError: As said.
        """
        found = self.size(count)
        if found is not None and found != (height, width):
            raise InputError(
                f"control_image: got {found[1]} x {found[0]} pixels, expected {width} x {height}, the size that is "
                f"generated; resize it before edges or the like are taken from it"
            )

    def scales(self, index: int, count: int, steps: int) -> tuple[float, ...]:
        """The scale of one ControlNet at every step, 0 outside of its part of the run; diffusers: `controlnet_keep`."""
        scale = _each("controlnet_conditioning_scale", self.controlnet_conditioning_scale, count, 1.0)[index]
        start, end = self._starts(count)[index], self._ends(count)[index]
        return tuple(0.0 if i / steps < start or (i + 1) / steps > end else scale for i in range(steps))

    def _starts(self, count: int) -> list[float]:
        return _each("control_guidance_start", self.control_guidance_start, count, 0.0)

    def _ends(self, count: int) -> list[float]:
        return _each("control_guidance_end", self.control_guidance_end, count, 1.0)


def unguided(control: Control) -> dict[str, Any]:
    """The arguments that mean nothing without an image."""
    return {field.name: getattr(control, field.name) for field in fields(control) if field.name != "control_image"}


def images_of(image: Any, count: int) -> list[Any]:
    """What each ControlNet is shown: an image, or a list with one for each prompt.

    Raises:
        InputError: There are not as many as ControlNets.
    """
    if count == 1:
        return [list(image) if isinstance(image, list | tuple) else image]
    entries = list(image) if isinstance(image, list | tuple) else [image]
    if entries and all(isinstance(entry, list | tuple) for entry in entries):
        counts = {len(entry) for entry in entries}
        if counts != {count}:
            raise InputError(
                f"control_image: got lists of {', '.join(map(str, sorted(counts)))} images, expected {count} in "
                f"each: one for each ControlNet of this bundle"
            )
        return [list(images) for images in zip(*entries, strict=True)]
    if len(entries) != count:
        raise InputError(
            f"control_image: got {len(entries)}, expected a list of {count}: one for each ControlNet of this bundle"
        )
    return entries


def _batch(image: Any) -> int:
    return len(image) if isinstance(image, np.ndarray) and image.ndim == 4 else 1


def _each(name: str, value: float | Sequence[float] | None, count: int, default: float) -> list[float]:
    """One number for each ControlNet.

    Raises:
        InputError: Something else, or a list of another length.
    """
    values = list(value) if isinstance(value, Sequence) else [value] * count
    if len(values) != count:
        raise InputError(f"{name}: got {len(values)} numbers, expected one, or {count}: one for each ControlNet")
    numbers = [default if value is None else value for value in values]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not np.isfinite(number):
            raise InputError(f"{name}: got {number!r}, expected a number")
    return numbers
