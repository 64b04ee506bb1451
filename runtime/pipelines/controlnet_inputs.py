"""The arguments for ControlNets, and their checks."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.mask import MaskInput
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.pipelines.joined_inputs import check_counts, number_for_each
from diffoundry.runtime.pipelines.tasks.source_images import image_size

__all__ = ["ControlInput", "ControlNetInputs"]

ControlInput: TypeAlias = "ImageInput | Sequence[ImageInput] | Sequence[Sequence[ImageInput]]"
"""For one ControlNet an image for all prompts or a list with one for each. For several ControlNets a list with an
image for each of them; or, as in diffusers, one such list for each prompt."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ControlNetInputs:
    """The arguments for ControlNets; a value for all of them, or a list with one for each.

    Attributes:
        control_image: Prepared images (edges, depth ...), in the size that is generated: PIL images; or arrays
            (H, W, 3) or tensors (3, H, W) of any floats, which the ControlNets get as they are: as a rule 0 to 1, and
            -1 in masked pixels for inpainting ControlNets. diffusers calls it `image` in text to image.
        controlnet_conditioning_scale: Factor of the residuals; None is 1, or the family's default for the task.
        control_guidance_start: The fraction of the steps at which they begin.
        control_guidance_end: The fraction of the steps at which they end.
        guess_mode: True if ControlNets ignore the negative prompt, and their first blocks count less; for images
            without a prompt.
        control_mode: Number of the kind of control image, from 0, for a union of ControlNets; a list with one for each.
            One union takes a list too, with an image for each, and runs for each.
        control_mask: Mask of the image's size, white where it is generated, for ControlNets of Stable Diffusion 3
            and Qwen-Image for inpainting; others see -1 in the image there.
    """

    control_image: "ControlInput | None" = None
    controlnet_conditioning_scale: float | Sequence[float] | None = None
    control_guidance_start: float | Sequence[float] | None = None
    control_guidance_end: float | Sequence[float] | None = None
    guess_mode: bool | None = None
    control_mask: "MaskInput | None" = None
    control_mode: int | Sequence[int | None] | None = None

    @property
    def without_image(self) -> list[str]:
        """The arguments that were given and mean nothing without an image."""
        names = [field.name for field in fields(self) if field.name != "control_image"]
        return [name for name in names if getattr(self, name) is not None]

    def count(self, networks: int) -> int:
        """Return the number of control images for each prompt: one for each network, or for each mode of a union."""
        several = networks == 1 and isinstance(self.control_mode, Sequence)
        return len(self.modes(1)) if several else networks

    def modes(self, count: int) -> list[int | None]:
        """Return the mode of each control image, None where it has none."""
        mode: Any = self.control_mode
        return list(mode) if isinstance(mode, Sequence) and not isinstance(mode, str) else [mode] * count

    def check(self, count: int, prompts: int) -> None:
        """Refuse arguments that do not fit the ControlNets or each other.

        Args:
            count: Number of ControlNets.
            prompts: Number of prompts.

        Raises:
            InputError: Subject, got, expected.
        """
        check_counts("control_image", self.images(count), prompts, "ControlNet")
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
        """Return height and width in pixels of the images, or None without any.

        Raises:
            InputError: They differ.
        """
        if self.control_image is None:
            return None
        sizes = {image_size(image, "control_image") for image in self.images(count)}
        if len(sizes) > 1:
            listed = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
            raise InputError(f"control_image: got images of {listed} pixels, expected one size; resize them")
        return sizes.pop()

    def check_size(self, count: int, height: int, width: int) -> None:
        """Refuse images of another size than the generated one.

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
        """Return the scale of one ControlNet at every step, 0 outside its part of the run.

        diffusers: `controlnet_keep`.
        """
        scale = _each("controlnet_conditioning_scale", self.controlnet_conditioning_scale, count, 1.0)[index]
        start, end = self._starts(count)[index], self._ends(count)[index]
        return tuple(0.0 if i / steps < start or (i + 1) / steps > end else scale for i in range(steps))

    def images(self, count: int) -> list[Any]:
        """Return the input of each ControlNet: an image, or a list with one for each prompt.

        Raises:
            InputError: There are not as many as ControlNets.
        """
        image: Any = self.control_image
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

    def _starts(self, count: int) -> list[float]:
        return _each("control_guidance_start", self.control_guidance_start, count, 0.0)

    def _ends(self, count: int) -> list[float]:
        return _each("control_guidance_end", self.control_guidance_end, count, 1.0)


def _each(name: str, value: float | Sequence[float] | None, count: int, default: float) -> list[float]:
    return number_for_each(name, value, count, default, "ControlNet")
