"""The arguments of the unCLIP pipelines, under diffusers' names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffoundry.runtime.checks.arguments import as_list, check_number, check_prompts
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.image_prompts import ImagePromptInput, check_image_prompt, count_image_prompts

__all__ = ["DecoderInputs", "UnCLIPImageInputs", "UnCLIPInputs"]

_LEAST_STEPS = 2
"""A schedule of unCLIP has the first and the last training step."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecoderInputs:
    """The arguments that every unCLIP pipeline has.

    Attributes:
        num_images_per_prompt: Images for every prompt, or for every image.
        decoder_num_inference_steps: Steps of the small image, at least 2.
        super_res_num_inference_steps: Steps of the large image, at least 2.
        decoder_latents: Start noise of the small image, float32 (B, 3, h, w), instead of drawing it.
        super_res_latents: Start noise of the large image, float32 (B, 3, height, width).
        decoder_guidance_scale: Guidance of the small image. 1 or less runs without.
    """

    num_images_per_prompt: int = 1
    decoder_num_inference_steps: int = 25
    super_res_num_inference_steps: int = 7
    decoder_latents: FloatArray | None = None
    super_res_latents: FloatArray | None = None
    decoder_guidance_scale: float = 8.0

    def check(self) -> None:
        """Refuse numbers out of range.

        Raises:
            InputError: As said.
        """
        for name in ("decoder_num_inference_steps", "super_res_num_inference_steps"):
            check_number(name, getattr(self, name), _LEAST_STEPS, whole=True)
        check_number("decoder_guidance_scale", self.decoder_guidance_scale, 0)

    @property
    def guided(self) -> bool:
        """True if unconditional rows are run."""
        return self.decoder_guidance_scale > 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UnCLIPInputs(DecoderInputs):
    """The arguments of diffusers' `UnCLIPPipeline`. Where one of both guidance scales is above 1, both act.

    Attributes:
        prompt: One prompt or several; None where `text_model_output` is passed.
        prior_num_inference_steps: Steps of the image embedding, at least 2.
        prior_latents: Start noise of the image embedding, float32 (B, D), instead of drawing it.
        prior_guidance_scale: Guidance of the image embedding.
        text_model_output: Encoded prompts instead of `prompt`: projected vectors, float32 (prompts, D), and hidden
            states, float32 (prompts, 77, D).
        text_attention_mask: Their mask, (prompts, 77), 0 for padding.
    """

    prompt: str | Sequence[str] | None = None
    prior_num_inference_steps: int = 25
    prior_latents: FloatArray | None = None
    prior_guidance_scale: float = 4.0
    text_model_output: tuple[Any, Any] | None = None
    text_attention_mask: Any = None

    def check(self) -> None:
        """Refuse numbers out of range, and anything but a prompt or an encoded one.

        Raises:
            InputError: As said.
        """
        DecoderInputs.check(self)
        check_number("prior_num_inference_steps", self.prior_num_inference_steps, _LEAST_STEPS, whole=True)
        check_number("prior_guidance_scale", self.prior_guidance_scale, 0)
        check_prompts("prompt", self.prompt)
        if (self.prompt is None) == (self.text_model_output is None):
            got = "neither" if self.prompt is None else "both"
            raise InputError(f"prompt and text_model_output: got {got}, expected one of them")
        if (self.text_model_output is None) != (self.text_attention_mask is None):
            given = "text_attention_mask" if self.text_model_output is None else "text_model_output"
            raise InputError(f"text_model_output and text_attention_mask: got {given} alone, expected both or neither")
        if self.text_model_output is not None:
            _check_encoded(self.text_model_output, self.text_attention_mask)

    @property
    def count(self) -> int:
        """Number of prompts."""
        if self.text_model_output is not None:
            return len(self.text_model_output[0])
        return 1 if isinstance(self.prompt, str) else len(self.prompt or ())

    @property
    def guided(self) -> bool:
        """See `DecoderInputs`."""
        return self.prior_guidance_scale > 1 or self.decoder_guidance_scale > 1

    def texts(self) -> list[str]:
        """The prompts to encode; none where they are encoded."""
        return [] if self.prompt is None else as_list(self.prompt, self.count)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UnCLIPImageInputs(DecoderInputs):
    """The arguments of diffusers' `UnCLIPImageVariationPipeline`.

    Attributes:
        image: See `ImagePromptInput`; None where `image_embeddings` are passed.
        image_embeddings: Encoded images instead of `image`, float32 (images, D).
    """

    image: ImagePromptInput = None
    image_embeddings: FloatArray | None = None

    def check(self) -> None:
        """Refuse numbers out of range, and anything but an image or an encoded one.

        Raises:
            InputError: As said.
        """
        DecoderInputs.check(self)
        if (self.image is None) == (self.image_embeddings is None):
            got = "neither" if self.image is None else "both"
            raise InputError(f"image and image_embeddings: got {got}, expected one of them")
        if self.image is not None:
            check_image_prompt(self.image)
        elif self.image_embeddings is not None and (self.image_embeddings.ndim != 2 or not len(self.image_embeddings)):
            raise InputError(f"image_embeddings: got shape {self.image_embeddings.shape}, expected (images, width)")

    @property
    def count(self) -> int:
        """Number of images to vary."""
        return count_image_prompts(self.image) if self.image_embeddings is None else len(self.image_embeddings)


def _check_encoded(output: Any, mask: Any) -> None:
    """Refuse encoded prompts that do not fit each other."""
    arrays = [*output, mask] if isinstance(output, tuple | list) and len(output) == 2 else [None]
    shapes = [array.shape if isinstance(array, np.ndarray) else None for array in arrays]
    if None in shapes or [len(shape or ()) for shape in shapes] != [2, 3, 2] or not len(output[0]):
        raise InputError(
            "text_model_output and text_attention_mask: got other values, expected NumPy arrays: vectors (prompts, "
            "width) and hidden states (prompts, tokens, width), and a mask (prompts, tokens)"
        )
    vectors, states, masks = output[0], output[1], mask
    if not (len(vectors) == len(states) == len(masks)) or states.shape[1] != masks.shape[1]:
        raise InputError(
            f"text_model_output and text_attention_mask: got shapes {vectors.shape}, {states.shape} and {masks.shape}, "
            f"expected as many prompts in each, and as many tokens in both last"
        )
