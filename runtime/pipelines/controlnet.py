"""ControlNets of a pipeline, and the sum of their residuals for every call of the denoiser.

diffusers: `StableDiffusionControlNetPipeline`, `MultiControlNetModel`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import read_pixels
from diffoundry.runtime.models.controlnet import ControlNetModel
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.registry import open_controlnet
from diffoundry.runtime.models.roles import CONTROLNET
from diffoundry.runtime.pipelines.control_latents import control_latents, control_pixels
from diffoundry.runtime.pipelines.control_residuals import ActiveNet, Residuals
from diffoundry.runtime.pipelines.controlnet_inputs import ControlNetInputs
from diffoundry.runtime.pipelines.guidance import Condition, Guidance
from diffoundry.runtime.pipelines.tasks.base import LoopInit, TaskContext
from diffoundry.runtime.pipelines.tasks.controlnet_inpainting import ControlNetInit
from diffoundry.runtime.random.torch_cpu import TorchCpuGenerator

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CONTROL_SEED", "ControlNets"]

CONTROL_SEED = 0
"""Seed of the draws of latents of control images. diffusers draws them from torch's global generator."""


class ControlNets:
    """The ControlNets of a bundle, in their order. Safe to share between threads.

    Attributes:
        names: Names of their components.
    """

    def __init__(
        self, session: EngineSession, residual_inputs: Callable[[], Sequence[TensorSpec]], denoiser: str
    ) -> None:
        """Read the configs; engines are opened when first needed.

        Args:
            session: The engines.
            residual_inputs: Lists the inputs of the denoiser for residuals.
            denoiser: Name of its component.
        """
        self._models = [open_controlnet(session, name) for name in session.with_role(CONTROLNET)]
        self._residual_inputs = residual_inputs
        self._session, self._denoiser = session, denoiser
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
        inputs.check(self.count(inputs), prompts)
        if inputs.guess_mode and not self._models[0].has_guess_mode:
            raise InputError("guess_mode: the ControlNets of this bundle have none; leave it out")
        if self.takes_mask == (inputs.control_mask is None):
            got = "got none, expected the mask that" if self.takes_mask else "got one, but no mask is what"
            action = "pass it, white where the image is generated" if self.takes_mask else "leave it out"
            raise InputError(f"control_mask: {got} the ControlNets of this bundle take; {action}")
        self._check_modes(inputs)

    def _check_modes(self, inputs: ControlNetInputs) -> None:
        """Refuse modes that are none of a union's, with an `InputError`."""
        if inputs.control_mode is not None and not self.takes_mode:
            raise InputError("control_mode: got one, but no ControlNet of this bundle is a union; leave it out")
        count = self.count(inputs)
        modes = inputs.modes(count)
        if len(modes) != count:
            raise InputError(
                f"control_mode: got {len(modes)} numbers, expected one, or {count}: one for each ControlNet"
            )
        for model, mode in zip(self.networks(inputs), modes, strict=True):
            known = model.modes
            if known is not None and (type(mode) is not int or not 0 <= mode < known):
                got = "none" if mode is None else repr(mode)
                raise InputError(
                    f"control_mode: got {got}, expected a whole number from 0 to {known - 1}: {model.component!r} is a "
                    f"union for {known} kinds of control images"
                )

    def count(self, inputs: ControlNetInputs) -> int:
        """Return the number of control images of a call for each prompt."""
        return inputs.count(len(self._models))

    def networks(self, inputs: ControlNetInputs) -> list[ControlNetModel]:
        """Return the ControlNet of each control image of a call; a union may have several."""
        return self._models * self.count(inputs) if len(self._models) == 1 else self._models

    @property
    def takes_mask(self) -> bool:
        """True if a ControlNet takes a mask beside the image."""
        return any(model.takes_mask for model in self._models)

    @property
    def encodes_image(self) -> bool:
        """True if a ControlNet sees latents of its image."""
        return any(model.encodes_image for model in self._models)

    @property
    def takes_mode(self) -> bool:
        """True if a ControlNet is a union for several kinds of images."""
        return any(model.modes is not None for model in self._models)

    @property
    def crops_image(self) -> bool:
        """True if an inpainted region is cut out of control images too; those of FLUX.1 show the region alone."""
        return not any(model.serves_both for model in self._models)

    def encode(self, inputs: ControlNetInputs | None, guidance: Guidance, context: TaskContext) -> list[FloatArray]:
        """Return the latents of control images, for ControlNets that see these; drawn before those of the task.

        Args:
            inputs: Of the call, checked; None where no image guides it.
            guidance: Of the denoiser.
            context: Of the task.

        Raises:
            InputError: An image does not fit.
        """
        if inputs is None or not self.encodes_image:
            return []
        own, images = TorchCpuGenerator(CONTROL_SEED), inputs.images(self.count(inputs))
        return [
            control_latents(
                model,
                image,
                inputs.control_mask,
                context.vae,
                own if model.draws_apart else context.generator,
                rows=context.images,
                copies=context.inputs.num_images_per_prompt,
                guidance_copies=1 if model.serves_both else guidance.copies,
            )
            for model, image in zip(self.networks(inputs), images, strict=True)
        ]

    def begin(
        self,
        inputs: ControlNetInputs | None,
        guidance: Guidance,
        condition: Condition,
        context: TaskContext,
        encoded: Sequence[FloatArray],
        init: LoopInit,
    ) -> "Residuals":
        """Return the source of the residuals of one run.

        Args:
            inputs: Of the call, checked; None where no image guides it.
            guidance: Of the denoiser.
            condition: Of the prompts.
            context: Of the task.
            encoded: Result of `encode`.
            init: Start of the loop.

        Raises:
            InputError: An image is none, or no PIL image where it must be cropped.
        """
        nets: list[ActiveNet] = []
        guess_mode = inputs is not None and bool(inputs.guess_mode or self._models[0].pooled)
        serves_both = not self.crops_image
        conditional_only = (guess_mode or serves_both) and guidance.copies > 1
        if inputs is not None:
            count, rows, copies = self.count(inputs), context.images, context.inputs.num_images_per_prompt
            images, modes = inputs.images(count), inputs.modes(count)
            for index, model in enumerate(self.networks(inputs)):
                full = encoded[index] if encoded else _read(model, images[index], init.crop, rows, copies)
                if not encoded and not conditional_only:
                    full = np.concatenate([full] * guidance.copies)
                if isinstance(init, ControlNetInit):
                    full = np.concatenate([full, np.concatenate([init.kept_part] * guidance.copies)], axis=1)
                feeds = model.call_feeds(rows, context.inputs.guidance_scale, modes[index])
                scales = inputs.scales(index, count, len(init.timesteps))
                nets.append(ActiveNet(model=model, image=full, scales=scales, feeds=feeds))
        return Residuals(
            nets,
            conditioning=condition.conditional if conditional_only else guidance.feeds(condition),
            scale_factor=context.vae.scale_factor,
            conditional_only=conditional_only,
            serves_both=serves_both,
            guess_mode=guess_mode,
            taken=self._residual_inputs() if self.names else (),
            idle=self._session.idle_inputs(self._denoiser),
        )


def _read(
    model: ControlNetModel, image: Any, crop: "Callable[[Image], Image] | None", rows: int, copies: int
) -> FloatArray:
    """Return pixels of control images, a row for each result, as a ControlNet sees them."""
    pixels = control_pixels(image) if model.signed_pixels else read_pixels(_cropped(image, crop), "control_image")
    repeated: FloatArray = np.repeat(pixels, rows if len(pixels) == 1 else copies, axis=0)
    return repeated


def _cropped(image: Any, crop: "Callable[[Image], Image] | None") -> Any:
    """Crop an image, or each of a list, to the part that is generated."""
    if crop is None:
        return image
    items = image if isinstance(image, list) else [image]
    for item in items:
        if not hasattr(item, "crop"):
            raise InputError(f"control_image: got {type(item).__name__} with padding_mask_crop, expected PIL images")
    return [crop(item) for item in items]
