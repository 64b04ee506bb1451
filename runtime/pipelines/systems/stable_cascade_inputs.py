"""The arguments of both stages of Stable Cascade, and the result of its prior."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from diffoundry.runtime.checks.arguments import check_embeddings
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.systems.cascade_inputs import CascadeTexts, check_decoder_inputs, check_prior_inputs

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CascadeEmbeddings", "StableCascadeDecoderInputs", "StableCascadePriorInputs", "StableCascadeTexts"]


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
class StableCascadeTexts(CascadeTexts):
    """The arguments that both stages have.

    Attributes:
        prompt_embeds: float32 (prompts, tokens, D), instead of `prompt`, with `prompt_embeds_pooled`.
        prompt_embeds_pooled: float32 (prompts, 1, P).
        negative_prompt_embeds: float32 (prompts, tokens, D), with `negative_prompt_embeds_pooled`.
        negative_prompt_embeds_pooled: float32 (prompts, 1, P).
    """

    embeddings: ClassVar[str | None] = "prompt_embeds_pooled"

    prompt_embeds: FloatArray | None = None
    prompt_embeds_pooled: FloatArray | None = None
    negative_prompt_embeds: FloatArray | None = None
    negative_prompt_embeds_pooled: FloatArray | None = None

    def check_embeddings(self, *, pooled_alone: bool) -> None:
        """Refuse embeddings of other shapes, and one of two that belong together.

        Args:
            pooled_alone: True if the stage reads no other embeddings than the pooled ones.

        Raises:
            InputError: As said.
        """
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            states, pooled = getattr(self, name), getattr(self, f"{name}_pooled")
            check_embeddings(f"{name}_pooled", pooled, self.count, 3)
            check_embeddings(name, states, self.count, 3)
            if (states is None) != (pooled is None) and not (pooled_alone and states is None):
                raise InputError(f"{name} and {name}_pooled: got one of them, expected both or none")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StableCascadePriorInputs(StableCascadeTexts):
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
        self.check_texts()
        self.check_embeddings(pooled_alone=False)
        check_prior_inputs(self)
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
class StableCascadeDecoderInputs(StableCascadeTexts):
    """The arguments of diffusers' `StableCascadeDecoderPipeline`.

    Attributes:
        image_embeddings: float32 (B, C, h, w), as the prior gives them; or a list of such arrays. A prompt may have
            several, one after another.
        num_inference_steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance, at half the cost.
    """

    image_embeddings: Any = None
    num_inference_steps: int = 10
    guidance_scale: float = 0.0

    def check(self) -> None:
        """Refuse wrong texts and their embeddings, and those that `check_decoder_inputs` refuses.

        Raises:
            InputError: As said.
        """
        self.check_texts()
        self.check_embeddings(pooled_alone=True)
        check_decoder_inputs(self)
