"""Editing a part of an image by a prompt, which the denoiser and the language model see."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import TaskContext
from diffoundry.runtime.pipelines.tasks.inpainting import Inpainting, mask_size
from diffoundry.runtime.pipelines.tasks.prompt_editing import PromptEditing
from diffoundry.runtime.pipelines.tasks.source_images import image_size

__all__ = ["PromptEditInpainting"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PromptEditInpainting(Inpainting):
    """diffusers: `QwenImageEditInpaintPipeline`."""

    name: ClassVar[str] = "prompt_edit_inpainting"
    label: ClassVar[str] = "editing a part of an image"
    own_size: ClassVar[tuple[int, int] | None] = PromptEditing.own_size
    named_only: ClassVar[bool] = True

    def check(self, inputs: CommonInputs, family: Family) -> None:
        """See `Task.check`."""
        self._editing().check(inputs, family)
        Inpainting.check(self, inputs, family)

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:
        """See `Task.size`: about 1024 x 1024 pixels in the ratio of the image, to which it is resized."""
        size = self._editing().size(replace(inputs, height=None, width=None), default, vae)
        cut = self.padding_mask_crop is not None
        expected = size if cut else image_size(self.image)
        found = mask_size(self.mask_image)
        if found != expected:
            raise InputError(
                f"mask_image: got {found[1]} x {found[0]} pixels, expected {expected[1]} x {expected[0]}, "
                + ("the size that is generated with padding_mask_crop" if cut else "the size of the image")
            )
        for name, side in zip(("height", "width"), size, strict=True):
            if getattr(inputs, name) not in (None, side):
                raise InputError(
                    f"{name}: got {getattr(inputs, name)}, expected {side}, the size to which the image is resized; "
                    f"leave it out"
                )
        return size

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """See `Task.canvas`: the resized image's."""
        return height, width

    def shown(self, count: int) -> list[list[Any]]:
        """See `PromptEditing.shown`."""
        return self._editing().shown(count)

    def _editing(self) -> PromptEditing:
        image: Any = self.image
        return PromptEditing(image=image)

    def _source(self) -> ImageInput:
        """See `Inpainting`: in the size of the result."""
        resized: Any = self._editing().resized()
        source: ImageInput = resized if isinstance(self.image, Sequence) else resized[0]
        return source

    def _feeds(self, context: TaskContext, image: FloatArray) -> Feeds:
        """See `Inpainting`: the image beside the latents."""
        denoiser: Any = context.family.denoiser
        feeds: Feeds = denoiser.reference_feeds([image], context.images, context.copies)
        return feeds
