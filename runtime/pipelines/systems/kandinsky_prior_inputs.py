"""The arguments and the result of a Kandinsky prior."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from diffoundry.runtime.checks.arguments import as_list, check_number, check_prompts, check_texts
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.tasks.schedule import check_strength

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageEmbeddings", "KandinskyPriorImageInputs", "KandinskyPriorInputs"]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ImageEmbeddings:
    """The result of a prior. diffusers: `KandinskyPriorPipelineOutput`.

    Attributes:
        image_embeds: float32 (B, D), a row for each image.
        negative_image_embeds: float32 (B, D), for guidance.
        seed: As `PipelineOutput.seed`.
        truncated: As `PipelineOutput.truncated`.
    """

    image_embeds: FloatArray
    negative_image_embeds: FloatArray
    seed: int | tuple[int, ...] | None
    truncated: tuple[str, ...]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return both embeddings, as diffusers' output does."""
        return self.image_embeds, self.negative_image_embeds

    def __getitem__(self, key: int | slice) -> Any:
        return self.to_tuple()[key]

    def __repr__(self) -> str:
        return f"ImageEmbeddings({len(self.image_embeds)} of {self.image_embeds.shape[1]} numbers, seed={self.seed})"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KandinskyPriorInputs:
    """The arguments of diffusers' `KandinskyPriorPipeline` and `KandinskyV22PriorPipeline`.

    Attributes:
        prompt: One prompt or several.
        negative_prompt: One for all prompts, or one for each. Its own embedding is the negative one of the result.
        num_images_per_prompt: Embeddings for every prompt.
        num_inference_steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance, at half the cost.
        latents: Start noise, float32 (B, D), instead of drawing it. A negative prompt doubles the rows.
    """

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None
    num_images_per_prompt: int = 1
    num_inference_steps: int = 25
    guidance_scale: float = 4.0
    latents: FloatArray | None = None

    @property
    def count(self) -> int:
        """Number of prompts."""
        return 1 if isinstance(self.prompt, str) else len(self.prompt or ())

    def check(self) -> None:
        """Refuse a missing prompt, and numbers out of range.

        Raises:
            InputError: As said.
        """
        if self.prompt is None:
            raise InputError("prompt: got none, expected a text")
        check_prompts("prompt", self.prompt)
        check_texts("negative_prompt", self.negative_prompt, self.count)
        check_number("guidance_scale", self.guidance_scale, 0, np.inf)

    def texts(self) -> tuple[list[str], list[str]]:
        """Return the prompts to embed and, for guidance, the negative prompt of each.

        diffusers doubles the batch with a negative prompt, so that its embedding is computed too.
        """
        prompts = as_list(self.prompt or "", self.count)
        if self.negative_prompt is None:
            return prompts, [""] * self.count
        negatives = as_list(self.negative_prompt, self.count)
        return prompts + negatives, negatives * 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KandinskyPriorImageInputs(KandinskyPriorInputs):
    """The arguments of diffusers' `KandinskyV22PriorEmb2EmbPipeline`.

    Attributes:
        image: The image whose embedding is changed, several, or embeddings (n, D).
        strength: Fraction of the schedule that is run, above 0 to 1; less changes the embedding less.
    """

    image: "Image | Sequence[Image] | FloatArray | None" = None
    strength: float = 0.3

    def check(self) -> None:
        """See `KandinskyPriorInputs.check`."""
        KandinskyPriorInputs.check(self)
        check_strength(self.strength)
        if self.image is None:
            raise InputError("image: got none, expected the image whose embedding is changed, or its embedding")
        if self.latents is not None:
            raise InputError("latents and image: got both, expected one of them; pass an embedding as image")
