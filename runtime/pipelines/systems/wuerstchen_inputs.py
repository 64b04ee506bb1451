"""The arguments of both stages of Würstchen, and the result of its prior."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from diffoundry.runtime.checks.arguments import check_embeddings, check_numbers
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.systems.cascade_inputs import CascadeTexts, check_decoder_inputs, check_prior_inputs

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
class WuerstchenTexts(CascadeTexts):
    """The arguments that both stages have.

    Attributes:
        timesteps: Descending from 1 to 0; the last one is where the run ends. They win over `num_inference_steps`.
    """

    timesteps: Sequence[float] | None = None

    def check_timesteps(self) -> None:
        """Refuse timesteps that the scheduler cannot follow.

        Raises:
            InputError: As said.
        """
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

    embeddings: ClassVar[str | None] = "prompt_embeds"

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
        self.check_texts()
        self.check_timesteps()
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            check_embeddings(name, getattr(self, name), self.count, 3)
        check_prior_inputs(self)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WuerstchenDecoderInputs(WuerstchenTexts):
    """The arguments of diffusers' `WuerstchenDecoderPipeline`, which takes one prompt and one image for each embedding.

    No prompt is the empty one, as in diffusers' combined pipeline.

    Attributes:
        image_embeddings: float32 (B, C, h, w), as the prior gives them; or a list of such arrays. A prompt may have
            several, one after another.
        num_inference_steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance, at half the cost.
    """

    image_embeddings: Any = None
    num_inference_steps: int = 12
    guidance_scale: float = 0.0

    def check(self) -> None:
        """Refuse wrong texts and timesteps, and the embeddings that `check_decoder_inputs` refuses.

        Raises:
            InputError: As said.
        """
        self.check_texts()
        self.check_timesteps()
        check_decoder_inputs(self)
