"""Families whose prompts are hidden states and a pooled vector, as those of Stable Diffusion 3 and FLUX.1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_embeddings, check_texts
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.families.base import EncodeOptions, Family
from diffoundry.runtime.pipelines.families.prompt_tokens import check_prompt_tokens
from diffoundry.runtime.pipelines.guidance import Condition
from diffoundry.runtime.pipelines.inputs import PromptInputs

if TYPE_CHECKING:
    from diffoundry.runtime.models.t5_encoder import T5EncoderModel

__all__ = ["EncodedPrompts", "PooledPromptFamily", "PooledPromptInputs", "check_pooled_prompts"]

EncodedPrompts = tuple[FloatArray, FloatArray, tuple[str, ...]]
"""Hidden states (B, tokens, D), pooled vectors (B, P), and the part of each prompt that was cut off."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PooledPromptInputs(PromptInputs):
    """The texts of one call.

    Attributes:
        texts_for_others: Endings of the names of texts for further text encoders.
        prompt_2: For the second text encoder, one or one for each prompt; None takes `prompt`.
        negative_prompt_2: The same of the negative prompt; None takes `negative_prompt`.
        pooled_prompt_embeds: float32 (B, P), the pooled vector that belongs to `prompt_embeds`.
        negative_pooled_prompt_embeds: The same of `negative_prompt_embeds`.
        max_sequence_length: Tokens of T5.
    """

    texts_for_others: ClassVar[tuple[str, ...]] = ("_2",)

    prompt_2: str | Sequence[str] | None = None
    negative_prompt_2: str | Sequence[str] | None = None
    pooled_prompt_embeds: FloatArray | None = None
    negative_pooled_prompt_embeds: FloatArray | None = None
    max_sequence_length: int = 256

    def check(self) -> None:
        """See `PromptInputs.check`."""
        PromptInputs.check(self)
        check_pooled_prompts(self, self.texts_for_others)


def check_pooled_prompts(inputs: PromptInputs, texts_for_others: Sequence[str]) -> None:
    """Refuse texts and embeddings that do not fit each other.

    Args:
        inputs: With the fields of `PooledPromptInputs`.
        texts_for_others: As its attribute.

    Raises:
        InputError: As said.
    """
    for name, embeddings in (("prompt", inputs.prompt_embeds), ("negative_prompt", inputs.negative_prompt_embeds)):
        for text in (f"{name}{ending}" for ending in texts_for_others):
            check_texts(text, getattr(inputs, text), inputs.count)
            if embeddings is not None and getattr(inputs, text) is not None:
                raise InputError(f"{text} and {name}_embeds: got both, expected one of them")
        pooled = f"{name.removesuffix('prompt')}pooled_prompt_embeds"
        check_embeddings(pooled, getattr(inputs, pooled), inputs.count, 2)
        if (embeddings is None) != (getattr(inputs, pooled) is None):
            raise InputError(f"{name}_embeds and {pooled}: got one of them, expected both")


class PooledPromptFamily(Family):
    """Hidden states of T5, or of several text encoders, and a pooled vector of CLIP."""

    _t5: "T5EncoderModel | None"

    def encode(self, inputs: Any, options: EncodeOptions) -> Condition:
        """See `Family`. diffusers: `FluxPipeline.encode_prompt`, `StableDiffusion3Pipeline.encode_prompt`."""
        self._check_prompts(inputs)
        states, pooled, truncated = inputs.prompt_embeds, inputs.pooled_prompt_embeds, ("",) * inputs.count
        if inputs.prompt is not None:
            states, pooled, truncated = self._encode(inputs, inputs.texts(), negative=False)
        negative, negative_pooled = inputs.negative_prompt_embeds, inputs.negative_pooled_prompt_embeds
        if options.guided and negative is None:
            negative, negative_pooled, _ = self._encode(inputs, inputs.negative_texts(guided=True), negative=True)
        times = options.images_per_prompt
        return Condition(
            conditional=_feeds(states, pooled, times),
            unconditional=_feeds(negative, negative_pooled, times) if options.guided else None,
            truncated=truncated,
        )

    def _check_prompts(self, inputs: Any) -> None:
        """Refuse arguments that do not fit the bundle's networks, with an `InputError`."""
        check_prompt_tokens(inputs, self.denoiser, self._t5)

    def _encode(self, inputs: Any, texts: list[str], *, negative: bool) -> EncodedPrompts:
        """Run the text encoders.

        Args:
            inputs: Of the call.
            texts: The prompts, or the negative ones.
            negative: True for these.
        """
        raise NotImplementedError


def _feeds(states: FloatArray | None, pooled: FloatArray | None, times: int) -> Mapping[str, FloatArray]:
    assert states is not None, "checked: a prompt or its embeddings"
    assert pooled is not None, "checked: together with the hidden states"
    return {
        "encoder_hidden_states": np.repeat(states.astype(np.float32), times, axis=0),
        "pooled_projections": np.repeat(pooled.astype(np.float32), times, axis=0),
    }
