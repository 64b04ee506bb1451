"""The arguments of the decoders of Kandinsky 2.1 and 2.2."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffoundry.runtime.checks.arguments import as_list, check_number, check_pixels, check_prompts, check_texts
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.mask import MaskInput
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.images.tensors import is_tensor, to_array
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.tasks.schedule import check_strength

__all__ = [
    "DecoderImageInputs",
    "DecoderInpaintInputs",
    "DecoderInputs",
    "EmbeddingInputs",
    "ImageStart",
    "MaskedStart",
    "TextDecoderImageInputs",
    "TextDecoderInpaintInputs",
    "TextDecoderInputs",
    "read_embeddings",
]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EmbeddingInputs:
    """The arguments of every decoder.

    Attributes:
        image_embeds: float32 (B, D), as a Kandinsky prior gives them; or a list of such arrays.
        negative_image_embeds: The same for guidance.
        height: Pixels, a multiple of the square of the decoder's factor: 64.
        width: Pixels, likewise.
        num_inference_steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance, at half the cost.
        num_images_per_prompt: Images of every embedding.
        latents: Start noise, float32 (B, C, height/8, width/8), instead of drawing it.
    """

    image_embeds: Any = None
    negative_image_embeds: Any = None
    height: int = 512
    width: int = 512
    num_inference_steps: int = 100
    guidance_scale: float = 4.0
    num_images_per_prompt: int = 1
    latents: FloatArray | None = None

    @property
    def count(self) -> int:
        """Number of embeddings."""
        return len(read_embeddings("image_embeds", self.image_embeds))

    def check(self) -> None:
        """Refuse missing embeddings, those that do not fit each other, and numbers out of range.

        Raises:
            InputError: As said.
        """
        check_number("guidance_scale", self.guidance_scale, 0, np.inf)
        for name in ("height", "width"):
            check_pixels(name, getattr(self, name))
        positive = read_embeddings("image_embeds", self.image_embeds)
        if self.guidance_scale > 1:
            negative = read_embeddings("negative_image_embeds", self.negative_image_embeds)
            if positive.shape != negative.shape:
                raise InputError(
                    f"negative_image_embeds: got shape {negative.shape}, expected that of image_embeds, "
                    f"{positive.shape}"
                )


@dataclass(frozen=True, kw_only=True, eq=False)  # no slots: it is a second base of others
class ImageStart:
    """The arguments of a decoder that starts from an image.

    Attributes:
        image: The start: one image of the generated size for all, or one for each embedding.
        strength: Fraction of the schedule that is run, above 0 to 1; less changes the image less.
    """

    image: "ImageInput | None" = None
    strength: float = 0.3

    def check_start(self) -> None:
        """Refuse a missing image, a strength out of range, and latents.

        Raises:
            InputError: As said.
        """
        check_strength(self.strength)
        if self.image is None:
            raise InputError("image: got none, expected the image to start from")
        if getattr(self, "latents", None) is not None:
            raise InputError("latents and image: got both, expected one of them; leave the latents out")


@dataclass(frozen=True, kw_only=True, eq=False)  # no slots: it is a second base of others
class MaskedStart:
    """The arguments of a decoder that fills a hole of an image.

    Attributes:
        image: The image, of the generated size.
        mask_image: White where the image is generated, black where it is kept.
    """

    image: "ImageInput | None" = None
    mask_image: "MaskInput | None" = None

    def check_start(self) -> None:
        """Refuse a missing image or mask.

        Raises:
            InputError: As said.
        """
        for name in ("image", "mask_image"):
            if getattr(self, name) is None:
                raise InputError(f"{name}: got none, expected one: inpainting is what this checkpoint does")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecoderInputs(EmbeddingInputs):
    """The arguments of diffusers' `KandinskyV22Pipeline` and `KandinskyV22ControlnetPipeline`.

    Attributes:
        hint: float32 (1, 3, H, W) or (B, 3, H, W), such as a depth map, where the checkpoint takes one; or images of
            the generated size.
    """

    hint: "ImageInput | None" = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecoderImageInputs(ImageStart, DecoderInputs):
    """The arguments of diffusers' `KandinskyV22Img2ImgPipeline` and `KandinskyV22ControlnetImg2ImgPipeline`."""

    def check(self) -> None:
        """See `EmbeddingInputs.check` and `ImageStart.check_start`."""
        DecoderInputs.check(self)
        self.check_start()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecoderInpaintInputs(MaskedStart, DecoderInputs):
    """The arguments of diffusers' `KandinskyV22InpaintPipeline`."""

    def check(self) -> None:
        """See `EmbeddingInputs.check` and `MaskedStart.check_start`."""
        DecoderInputs.check(self)
        self.check_start()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextDecoderInputs(EmbeddingInputs):
    """The arguments of diffusers' `KandinskyPipeline`.

    Attributes:
        prompt: One prompt or several, which the decoder of Kandinsky 2.1 takes beside the embeddings. A prompt may
            have several rows of embeddings, one after another, and one row may serve all prompts; diffusers needs a
            prompt for each row.
        negative_prompt: One for all prompts, or one for each.
    """

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None

    def check(self) -> None:
        """Refuse missing prompts, embeddings of another number, and what `EmbeddingInputs.check` refuses.

        Raises:
            InputError: As said.
        """
        if self.prompt is None:
            raise InputError("prompt: got none, expected a text beside the embeddings")
        check_prompts("prompt", self.prompt)
        EmbeddingInputs.check(self)
        prompts, rows = len(self.texts), len(read_embeddings("image_embeds", self.image_embeds))
        if rows > 1 and rows % prompts:
            raise InputError(
                f"image_embeds: got {rows} rows for {prompts} prompts, expected the same number of rows for each prompt"
            )
        check_texts("negative_prompt", self.negative_prompt, prompts)

    @property
    def count(self) -> int:
        """Number of embeddings, or of prompts where there is one embedding for all."""
        return max(len(read_embeddings("image_embeds", self.image_embeds)), len(self.texts))

    @property
    def texts(self) -> list[str]:
        """The prompts."""
        return as_list(self.prompt or "", 1)

    @property
    def negatives(self) -> list[str]:
        """The negative prompt of each prompt, empty where there is none."""
        return as_list(self.negative_prompt or "", len(self.texts))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextDecoderImageInputs(ImageStart, TextDecoderInputs):
    """The arguments of diffusers' `KandinskyImg2ImgPipeline`."""

    guidance_scale: float = 7.0

    def check(self) -> None:
        """See `TextDecoderInputs.check` and `ImageStart.check_start`."""
        TextDecoderInputs.check(self)
        self.check_start()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextDecoderInpaintInputs(MaskedStart, TextDecoderInputs):
    """The arguments of diffusers' `KandinskyInpaintPipeline`."""

    def check(self) -> None:
        """See `TextDecoderInputs.check` and `MaskedStart.check_start`."""
        TextDecoderInputs.check(self)
        self.check_start()


def read_embeddings(name: str, value: Any) -> FloatArray:
    """Return embeddings as float32 (B, D).

    Raises:
        InputError: They are none.
    """
    if value is None:
        raise InputError(
            f"{name}: got none, expected embeddings (B, D) of a prior; chain the bundles: 'diffoundry generate "
            f"PRIOR+DECODER'"
        )
    given = [value] if is_tensor(value) or not isinstance(value, Sequence) else value
    parts: list[Any] = [to_array(part) if is_tensor(part) else part for part in given]
    right = [isinstance(part, np.ndarray) and part.ndim == 2 and part.dtype.kind == "f" and part.size for part in parts]
    if not parts or not all(right):
        shown = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise InputError(f"{name}: got {shown}, expected floats (B, D), or a list of such arrays")
    return np.concatenate(parts).astype(np.float32)
