"""The arguments of both stages of Stable Cascade, and the result of its prior."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from diffoundry.runtime.checks.arguments import (
    as_list,
    check_embeddings,
    check_number,
    check_pixels,
    check_prompts,
    check_texts,
)
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.tensors import is_tensor, to_array
from diffoundry.runtime.models.protocols import FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "CascadeEmbeddings",
    "CascadeTexts",
    "StableCascadeDecoderInputs",
    "StableCascadePriorInputs",
    "check_rows",
    "read_features",
]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class CascadeEmbeddings:
    """The result of the prior. diffusers: `StableCascadePriorPipelineOutput`.

    The embeddings of the negative prompt are there without guidance as well, where diffusers has None.

    Attributes:
        image_embeddings: float32 (B, C, h, w), small latents of the images.
        prompt_embeds: float32 (B, tokens, D).
        prompt_embeds_pooled: float32 (B, 1, P).
        negative_prompt_embeds: float32 (B, tokens, D).
        negative_prompt_embeds_pooled: float32 (B, 1, P).
        seed: As `PipelineOutput.seed`.
        truncated: As `PipelineOutput.truncated`.
    """

    image_embeddings: FloatArray
    prompt_embeds: FloatArray
    prompt_embeds_pooled: FloatArray
    negative_prompt_embeds: FloatArray
    negative_prompt_embeds_pooled: FloatArray
    seed: int | tuple[int, ...] | None
    truncated: tuple[str, ...]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the five arrays, in the order of diffusers' output."""
        return (
            self.image_embeddings,
            self.prompt_embeds,
            self.prompt_embeds_pooled,
            self.negative_prompt_embeds,
            self.negative_prompt_embeds_pooled,
        )

    def __getitem__(self, key: int | slice) -> Any:
        return self.to_tuple()[key]

    def __repr__(self) -> str:
        return f"CascadeEmbeddings({self.image_embeddings.shape}, seed={self.seed})"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CascadeTexts:
    """The arguments that both stages have.

    Attributes:
        prompt: One prompt or several; None where embeddings are passed.
        negative_prompt: One for all prompts, or one for each.
        prompt_embeds: float32 (prompts, tokens, D), instead of `prompt`, with `prompt_embeds_pooled`.
        prompt_embeds_pooled: float32 (prompts, 1, P).
        negative_prompt_embeds: float32 (prompts, tokens, D), with `negative_prompt_embeds_pooled`.
        negative_prompt_embeds_pooled: float32 (prompts, 1, P).
        num_images_per_prompt: Images for every prompt.
        latents: Start noise, float32, instead of drawing it.
    """

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None
    prompt_embeds: FloatArray | None = None
    prompt_embeds_pooled: FloatArray | None = None
    negative_prompt_embeds: FloatArray | None = None
    negative_prompt_embeds_pooled: FloatArray | None = None
    num_images_per_prompt: int = 1
    latents: FloatArray | None = None

    @property
    def count(self) -> int:
        """Number of prompts."""
        if self.prompt is None:
            return 0 if self.prompt_embeds_pooled is None else len(self.prompt_embeds_pooled)
        return 1 if isinstance(self.prompt, str) else len(self.prompt)

    @property
    def texts(self) -> list[str]:
        """The prompts; none where embeddings are passed."""
        return [] if self.prompt is None else as_list(self.prompt, self.count)

    @property
    def negatives(self) -> list[str]:
        """The negative prompt of each prompt, empty where there is none."""
        return as_list(self.negative_prompt or "", self.count)

    def check_texts(self, *, pooled_alone: bool) -> None:
        """Refuse anything but a prompt or its embeddings, for both halves of guidance.

        Args:
            pooled_alone: True if the stage reads no other embeddings than the pooled ones.

        Raises:
            InputError: As said.
        """
        check_prompts("prompt", self.prompt)
        if (self.prompt is None) == (self.prompt_embeds_pooled is None):
            got = "neither" if self.prompt is None else "both"
            raise InputError(f"prompt and prompt_embeds_pooled: got {got}, expected one of them")
        if self.negative_prompt is not None and self.negative_prompt_embeds_pooled is not None:
            raise InputError(
                "negative_prompt and negative_prompt_embeds_pooled: got both, expected at most one of them"
            )
        check_texts("negative_prompt", self.negative_prompt, self.count)
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            states, pooled = getattr(self, name), getattr(self, f"{name}_pooled")
            check_embeddings(f"{name}_pooled", pooled, self.count, 3)
            check_embeddings(name, states, self.count, 3)
            if (states is None) != (pooled is None) and not (pooled_alone and states is None):
                raise InputError(f"{name} and {name}_pooled: got one of them, expected both or none")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StableCascadePriorInputs(CascadeTexts):
    """The arguments of diffusers' `StableCascadePriorPipeline`.

    Attributes:
        images: One image or several, which condition beside the prompt; all of them act on every prompt.
        image_embeds: Their embeddings, float32 (1, images, E), instead of the images.
        height: Pixels of the image that the decoder shall make.
        width: Pixels, likewise.
        num_inference_steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance, at half the cost.
    """

    images: "Image | Sequence[Image] | None" = None
    image_embeds: Any = None
    height: int = 1024
    width: int = 1024
    num_inference_steps: int = 20
    guidance_scale: float = 4.0

    def check(self) -> None:
        """Refuse a missing prompt, images together with their embeddings, and numbers out of range.

        Raises:
            InputError: As said.
        """
        self.check_texts(pooled_alone=False)
        check_number("guidance_scale", self.guidance_scale, 0, np.inf)
        for name in ("height", "width"):
            check_pixels(name, getattr(self, name))
        if self.images is not None and self.image_embeds is not None:
            raise InputError("images and image_embeds: got both, expected at most one of them")

    def image_list(self) -> "list[Image]":
        """Return the images.

        Raises:
            InputError: One is no PIL image, or the list is empty.
        """
        images: list[Any] = list(self.images) if isinstance(self.images, Sequence) else [self.images]
        wrong = next((type(image).__name__ for image in images if not hasattr(image, "getbands")), None)
        if wrong is not None or not images:
            raise InputError(f"images: got {wrong or 'an empty list'}, expected PIL images")
        return images


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StableCascadeDecoderInputs(CascadeTexts):
    """The arguments of diffusers' `StableCascadeDecoderPipeline`.

    Attributes:
        image_embeddings: float32 (B, C, h, w), as the prior gives them; or a list of such arrays. A prompt may have
            several, one after another.
        num_inference_steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance, at half the cost.
        num_images_per_prompt: Images for every row of embeddings.
    """

    image_embeddings: Any = None
    num_inference_steps: int = 10
    guidance_scale: float = 0.0

    def check(self) -> None:
        """Refuse missing embeddings, another number of them than of prompts, and numbers out of range.

        Raises:
            InputError: As said.
        """
        rows = len(read_features(self.image_embeddings))
        self.check_texts(pooled_alone=True)
        check_number("guidance_scale", self.guidance_scale, 0, np.inf)
        check_rows(rows, self.count)


def check_rows(rows: int, prompts: int) -> None:
    """Refuse embeddings of which some prompts would get more than others.

    Raises:
        InputError: As said.
    """
    if rows % prompts:
        raise InputError(
            f"image_embeddings: got {rows} for {prompts} prompts, expected the same number for each prompt"
        )


def read_features(value: Any) -> FloatArray:
    """Return the result of a prior as float32 (B, C, h, w).

    Raises:
        InputError: It is none.
    """
    if value is None:
        raise InputError(
            "image_embeddings: got none, expected those of a prior, (B, C, h, w); chain the bundles: 'diffoundry "
            "generate PRIOR+DECODER'"
        )
    given = [value] if is_tensor(value) or not isinstance(value, Sequence) else value
    parts: list[Any] = [to_array(part) if is_tensor(part) else part for part in given]
    right = [isinstance(part, np.ndarray) and part.ndim == 4 and part.dtype.kind == "f" for part in parts]
    if not parts or not all(right):
        raise InputError(
            f"image_embeddings: got {type(value).__name__}, expected floats (B, C, h, w), or a list of them"
        )
    return np.concatenate(parts).astype(np.float32)
