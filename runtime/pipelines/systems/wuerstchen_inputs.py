"""The arguments of both stages of Würstchen, and the result of its prior."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from diffoundry.runtime.checks.arguments import (
    as_list,
    check_embeddings,
    check_number,
    check_numbers,
    check_pixels,
    check_prompts,
    check_texts,
)
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.systems.stable_cascade_inputs import check_rows, read_features

__all__ = ["WuerstchenDecoderInputs", "WuerstchenEmbeddings", "WuerstchenPriorInputs", "WuerstchenTexts"]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class WuerstchenEmbeddings:
    """The result of the prior. diffusers: `WuerstchenPriorPipelineOutput`.

    Attributes:
        image_embeddings: float32 (B, C, h, w), small latents of the images.
        seed: As `PipelineOutput.seed`.
        truncated: As `PipelineOutput.truncated`.
    """

    image_embeddings: FloatArray
    seed: int | tuple[int, ...] | None
    truncated: tuple[str, ...]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the array alone, as diffusers' output does."""
        return (self.image_embeddings,)

    def __getitem__(self, key: int | slice) -> Any:
        return self.to_tuple()[key]

    def __repr__(self) -> str:
        return f"WuerstchenEmbeddings({self.image_embeddings.shape}, seed={self.seed})"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WuerstchenTexts:
    """The arguments that both stages have.

    Attributes:
        prompt: One prompt or several.
        negative_prompt: One for all prompts, or one for each.
        num_images_per_prompt: Images for every prompt.
        timesteps: Descending from 1 to 0; the last one is where the run ends. They win over `num_inference_steps`.
        latents: Start noise, float32, instead of drawing it.
    """

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None
    num_images_per_prompt: int = 1
    timesteps: Sequence[float] | None = None
    latents: FloatArray | None = None

    @property
    def count(self) -> int:
        """Number of prompts."""
        if self.prompt is None:
            return 1 if self._embeds is None else len(self._embeds)
        return 1 if isinstance(self.prompt, str) else len(self.prompt)

    @property
    def texts(self) -> list[str]:
        """The prompts; none where embeddings are passed."""
        return [] if self._embeds is not None else as_list(self.prompt or "", self.count)

    @property
    def _embeds(self) -> FloatArray | None:
        """Embeddings instead of a prompt, which a prior alone takes."""
        return getattr(self, "prompt_embeds", None)

    @property
    def negatives(self) -> list[str]:
        """The negative prompt of each prompt, empty where there is none."""
        return as_list(self.negative_prompt or "", self.count)

    def check_common(self) -> None:
        """Refuse texts that are none, and timesteps that the scheduler cannot follow.

        Raises:
            InputError: As said.
        """
        check_prompts("prompt", self.prompt)
        check_texts("negative_prompt", self.negative_prompt, self.count)
        check_numbers("timesteps", self.timesteps)
        given = [] if self.timesteps is None else [float(one) for one in self.timesteps]
        falls = all(one > following for one, following in pairwise(given))
        if self.timesteps is not None and not (len(given) > 1 and falls and given[0] <= 1 and given[-1] >= 0):
            raise InputError(
                f"timesteps: got {given}, expected two or more numbers from 1 to 0, descending; the last is where the "
                f"run ends"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WuerstchenPriorInputs(WuerstchenTexts):
    """The arguments of diffusers' `WuerstchenPriorPipeline`.

    Attributes:
        prompt_embeds: float32 (prompts, tokens, D), instead of `prompt`.
        negative_prompt_embeds: float32 (prompts, tokens, D), instead of `negative_prompt`.
        height: Pixels of the image that the decoder shall make.
        width: Pixels, likewise.
        num_inference_steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance, at half the cost.
    """

    prompt_embeds: FloatArray | None = None
    negative_prompt_embeds: FloatArray | None = None
    height: int = 1024
    width: int = 1024
    num_inference_steps: int = 60
    guidance_scale: float = 8.0

    def check(self) -> None:
        """Refuse anything but a prompt or its embeddings, for both halves of guidance, and numbers out of range.

        Raises:
            InputError: As said.
        """
        self.check_common()
        if (self.prompt is None) == (self.prompt_embeds is None):
            got = "neither" if self.prompt is None else "both"
            raise InputError(f"prompt and prompt_embeds: got {got}, expected one of them")
        if self.negative_prompt is not None and self.negative_prompt_embeds is not None:
            raise InputError("negative_prompt and negative_prompt_embeds: got both, expected at most one of them")
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            check_embeddings(name, getattr(self, name), self.count, 3)
        check_number("guidance_scale", self.guidance_scale, 0, np.inf)
        for name in ("height", "width"):
            check_pixels(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WuerstchenDecoderInputs(WuerstchenTexts):
    """The arguments of diffusers' `WuerstchenDecoderPipeline`, which takes one prompt and one image for each embedding.

    No prompt is the empty one, as in diffusers' combined pipeline.

    Attributes:
        image_embeddings: float32 (B, C, h, w), as the prior gives them; or a list of such arrays. A prompt may have
            several, one after another.
        num_inference_steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance, at half the cost.
        num_images_per_prompt: Images for every row of embeddings.
    """

    image_embeddings: Any = None
    num_inference_steps: int = 12
    guidance_scale: float = 0.0

    def check(self) -> None:
        """Refuse missing embeddings, another number of them than of prompts, and numbers out of range.

        Raises:
            InputError: As said.
        """
        rows = len(read_features(self.image_embeddings))
        self.check_common()
        check_number("guidance_scale", self.guidance_scale, 0, np.inf)
        check_rows(rows, self.count)
