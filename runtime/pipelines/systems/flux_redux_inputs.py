"""The arguments and the result of FLUX.1 Redux."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from diffoundry.runtime.checks.arguments import as_list, check_embeddings, check_numbers, check_prompts, check_texts
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.tensors import is_tensor
from diffoundry.runtime.models.protocols import FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FluxReduxInputs", "ReduxEmbeddings", "Scale"]

Scale: TypeAlias = float | Sequence[float]
"""One number for all images, or one for each."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ReduxEmbeddings:
    """The result of Redux. diffusers: `FluxPriorReduxPipelineOutput`.

    Attributes:
        prompt_embeds: float32 (1, tokens, D), those of T5 first, then those of the image.
        pooled_prompt_embeds: float32 (1, P).
        seed: As `PipelineOutput.seed`; nothing is drawn.
        truncated: As `PipelineOutput.truncated`.
    """

    prompt_embeds: FloatArray
    pooled_prompt_embeds: FloatArray
    seed: int | tuple[int, ...] | None
    truncated: tuple[str, ...]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return both embeddings, as diffusers' output does."""
        return self.prompt_embeds, self.pooled_prompt_embeds

    def __getitem__(self, key: int | slice) -> Any:
        return self.to_tuple()[key]

    def __repr__(self) -> str:
        return f"ReduxEmbeddings({self.prompt_embeds.shape[1]} tokens of {self.prompt_embeds.shape[2]} numbers)"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FluxReduxInputs:
    """The arguments of diffusers' `FluxPriorReduxPipeline`.

    Attributes:
        image: A PIL image, or several that are added up.
        prompt: One for all images, or one for each; None is no text, zeros.
        prompt_2: The same for T5; None takes `prompt`.
        prompt_embeds: float32 (images, tokens, D) instead of `prompt`, with `pooled_prompt_embeds`.
        pooled_prompt_embeds: float32 (images, P).
        prompt_embeds_scale: Factor of the tokens of text and image.
        pooled_prompt_embeds_scale: Factor of the pooled vector.
    """

    image: "Image | Sequence[Image] | None" = None
    prompt: str | Sequence[str] | None = None
    prompt_2: str | Sequence[str] | None = None
    prompt_embeds: FloatArray | None = None
    pooled_prompt_embeds: FloatArray | None = None
    prompt_embeds_scale: Scale = 1.0
    pooled_prompt_embeds_scale: Scale = 1.0

    @property
    def images(self) -> list[Any]:
        """The images."""
        given: Any = self.image
        return list(given) if isinstance(given, list | tuple) else [given]

    def check(self) -> None:
        """Refuse what is no image, and texts, embeddings and scales that do not fit the images.

        Raises:
            InputError: As said.
        """
        given: Any = self.image
        if given is None:
            raise InputError(
                "image: got none, expected the image that the prompt is made of, or several; in a chain pass it as "
                "prior_image"
            )
        if isinstance(given, np.ndarray) or is_tensor(given) or not self.images:
            got = type(given).__name__ if self.images else "an empty list"
            raise InputError(f"image: got {got}, expected a PIL image or a list of them")
        count = len(self.images)
        if self.prompt is not None:
            check_prompts("prompt", self.prompt)
            check_texts("prompt", self.prompt, count)
        self._check_embeddings(count)
        for name in ("prompt_embeds_scale", "pooled_prompt_embeds_scale"):
            self._check_scale(name, count)

    def _check_embeddings(self, count: int) -> None:
        check_texts("prompt_2", self.prompt_2, count)
        if self.prompt_2 is not None and self.prompt is None:
            raise InputError("prompt_2 needs prompt, which CLIP reads; pass both")
        if self.prompt is not None and self.prompt_embeds is not None:
            raise InputError("prompt and prompt_embeds: got both, expected one of them")
        if (self.prompt_embeds is None) != (self.pooled_prompt_embeds is None):
            raise InputError("prompt_embeds and pooled_prompt_embeds: got one of them, expected both")
        check_embeddings("prompt_embeds", self.prompt_embeds, count, 3)
        check_embeddings("pooled_prompt_embeds", self.pooled_prompt_embeds, count, 2)

    def _check_scale(self, name: str, count: int) -> None:
        scale: Any = getattr(self, name)
        several = isinstance(scale, list | tuple)
        check_numbers(name, scale if several else [scale])
        if several and len(scale) != count:
            raise InputError(f"{name}: got {len(scale)} numbers for {count} images, expected one, or one for each")

    def scales(self, name: str) -> FloatArray:
        """Return the factor of each image, float32 (images,)."""
        scale: Any = getattr(self, name)
        return np.asarray(scale if isinstance(scale, list | tuple) else [scale] * len(self.images), np.float32)

    def texts(self, name: str) -> list[str]:
        """Return the text of each image; that of `prompt_2` is that of `prompt` where it is missing."""
        given: str | Sequence[str] = getattr(self, name) or self.prompt or ""
        return as_list(given, len(self.images))
