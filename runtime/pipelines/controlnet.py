"""ControlNets of a pipeline: their arguments, and the sum of their residuals for every call of the denoiser.

diffusers: `StableDiffusionControlNetPipeline`, `MultiControlNetModel`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.mask import MaskInput
from diffoundry.runtime.images.pixels import ImageInput, read_pixels
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.registry import open_controlnet
from diffoundry.runtime.models.roles import CONTROLNET
from diffoundry.runtime.models.sd3_controlnet import SD3ControlNetModel
from diffoundry.runtime.pipelines.control_latents import control_latents
from diffoundry.runtime.pipelines.control_residuals import ActiveNet, Residuals
from diffoundry.runtime.pipelines.guidance import Condition, Guidance
from diffoundry.runtime.pipelines.joined_inputs import check_counts, number_for_each
from diffoundry.runtime.pipelines.tasks.source_images import image_size
from diffoundry.runtime.random.torch_cpu import TorchCpuGenerator

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CONTROL_SEED", "ControlInput", "ControlNetInputs", "ControlNets"]

CONTROL_SEED = 0
"""Seed of the draws of latents of control images. diffusers draws them from torch's global generator."""

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
        control_mask: Mask of the image's size, white where it is generated, for ControlNets of Stable Diffusion 3 for
            inpainting; others see -1 in the image there.
    """

    control_image: "ControlInput | None" = None
    controlnet_conditioning_scale: float | Sequence[float] | None = None
    control_guidance_start: float | Sequence[float] | None = None
    control_guidance_end: float | Sequence[float] | None = None
    guess_mode: bool | None = None
    control_mask: "MaskInput | None" = None

    @property
    def without_image(self) -> list[str]:
        """The arguments that were given and mean nothing without an image."""
        names = [field.name for field in fields(self) if field.name != "control_image"]
        return [name for name in names if getattr(self, name) is not None]

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


class ControlNets:
    """The ControlNets of a bundle, in their order. Safe to share between threads.

    Attributes:
        names: Names of their components.
    """

    def __init__(self, session: EngineSession, residual_inputs: Callable[[], Sequence[TensorSpec]]) -> None:
        """Read the configs; engines are opened when first needed.

        Args:
            session: The engines.
            residual_inputs: Lists the inputs of the denoiser for residuals.
        """
        self._models = [open_controlnet(session, name) for name in session.with_role(CONTROLNET)]
        self._residual_inputs = residual_inputs
        self.names = tuple(model.component for model in self._models)

    def check(self, inputs: ControlNetInputs, prompts: int, refused_by: str | None) -> None:
        """Refuse arguments that do not fit, before any work.

        Args:
            inputs: Of the call.
            prompts: Number of prompts.
            refused_by: Label of a task that has no ControlNets; None where it has.

        Raises:
            InputError: Subject, got, expected.
        """
        if inputs.control_image is None:
            if inputs.without_image:
                raise InputError(
                    f"{inputs.without_image[0]} needs control_image, an image for every ControlNet; pass both"
                )
            return
        if not self.names:
            raise InputError(
                "control_image: got one, but this bundle has no ControlNet; export it with --controlnet, or leave it "
                "out"
            )
        if refused_by is not None:
            raise InputError(f"control_image: {refused_by} has no ControlNets; leave it out")
        inputs.check(len(self.names), prompts)
        if inputs.guess_mode and self.encodes_image:
            raise InputError("guess_mode: the ControlNets of this bundle have none; leave it out")
        if self.takes_mask == (inputs.control_mask is None):
            got = "got none, expected the mask that" if self.takes_mask else "got one, but no mask is what"
            action = "pass it, white where the image is generated" if self.takes_mask else "leave it out"
            raise InputError(f"control_mask: {got} the ControlNets of this bundle take; {action}")

    @property
    def takes_mask(self) -> bool:
        """True if a ControlNet takes a mask beside the image."""
        return any(model.takes_mask for model in self._models)

    @property
    def encodes_image(self) -> bool:
        """True if a ControlNet sees latents of its image."""
        return any(model.encodes_image for model in self._models)

    def begin(
        self,
        inputs: ControlNetInputs | None,
        guidance: Guidance,
        condition: Condition,
        vae: AutoencoderKL,
        copies: int,
        steps: int,
        crop: "Callable[[Image], Image] | None",
    ) -> "Residuals":
        """Return the source of the residuals of one run.

        Args:
            inputs: Of the call, checked; None where no image guides it.
            guidance: Of the denoiser.
            condition: Of the prompts.
            vae: Of the latents.
            copies: Images for every prompt.
            steps: Timesteps of the run, before any are cut from its end.
            crop: As `LoopInit.crop`.

        Raises:
            InputError: An image is none, or no PIL image where it must be cropped.
        """
        nets: list[ActiveNet] = []
        guess_mode = inputs is not None and bool(inputs.guess_mode or self._models[0].pooled)
        conditional_only = guess_mode and guidance.copies > 1
        if inputs is not None:
            count = len(self._models)
            rows = len(next(iter(condition.conditional.values())))
            generator = TorchCpuGenerator(CONTROL_SEED)
            for index, (model, image) in enumerate(zip(self._models, inputs.images(count), strict=True)):
                if isinstance(model, SD3ControlNetModel):
                    sizes = {"rows": rows, "copies": copies, "guidance_copies": guidance.copies}
                    full = control_latents(model, image, inputs.control_mask, vae, generator, **sizes)
                else:
                    pixels = read_pixels(_cropped(image, crop), "control_image")
                    pixels = np.repeat(pixels, rows if len(pixels) == 1 else copies, axis=0)
                    full = pixels if conditional_only else np.concatenate([pixels] * guidance.copies)
                nets.append(ActiveNet(model=model, image=full, scales=inputs.scales(index, count, steps)))
        return Residuals(
            nets,
            conditioning=condition.conditional if conditional_only else guidance.feeds(condition),
            scale_factor=vae.scale_factor,
            conditional_only=conditional_only,
            guess_mode=guess_mode,
            taken=self._residual_inputs() if self.names else (),
        )


def _cropped(image: Any, crop: "Callable[[Image], Image] | None") -> Any:
    """Crop an image, or each of a list, to the part that is generated."""
    if crop is None:
        return image
    items = image if isinstance(image, list) else [image]
    for item in items:
        if not hasattr(item, "crop"):
            raise InputError(f"control_image: got {type(item).__name__} with padding_mask_crop, expected PIL images")
    return [crop(item) for item in items]


def _each(name: str, value: float | Sequence[float] | None, count: int, default: float) -> list[float]:
    return number_for_each(name, value, count, default, "ControlNet")
