"""Families whose prompts are hidden states with a mask of their padding, as those of Chroma and AuraFlow."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.checks.token_masks import check_token_mask
from diffoundry.runtime.models.json_text_encoder import JsonTextEncoder
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.pipelines.families.base import EncodeOptions, Family
from diffoundry.runtime.pipelines.families.prompt_tokens import check_prompt_tokens
from diffoundry.runtime.pipelines.guidance import Condition
from diffoundry.runtime.pipelines.inputs import PromptInputs

__all__ = ["MaskedPromptFamily", "MaskedPromptInputs", "MaskedPrompts"]

MaskedPrompts = tuple[FloatArray, Any, tuple[str, ...]]
"""Hidden states (B, tokens, D), their mask (B, tokens), and the part of each prompt that was cut off."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MaskedPromptInputs(PromptInputs):
    """The texts of one call.

    Attributes:
        most_tokens: The largest `max_sequence_length`.
        prompt_attention_mask: (B, tokens), 1 for a token of `prompt_embeds` and 0 for padding; needed with them alone.
        negative_prompt_attention_mask: The same of `negative_prompt_embeds`.
        max_sequence_length: Tokens of a prompt with its padding.
    """

    most_tokens: ClassVar[float] = np.inf

    prompt_attention_mask: Any = None
    negative_prompt_attention_mask: Any = None
    max_sequence_length: int = 256

    def check(self) -> None:
        """See `PromptInputs.check`."""
        PromptInputs.check(self)
        for prefix in ("", "negative_"):
            embeds, name = f"{prefix}prompt_embeds", f"{prefix}prompt_attention_mask"
            check_token_mask(name, getattr(self, name), embeds, getattr(self, embeds))
        check_number("max_sequence_length", self.max_sequence_length, 2, self.most_tokens, whole=True)


class MaskedPromptFamily(Family):
    """Hidden states of one text encoder.

    Attributes:
        mask_input: Input of the denoiser for the mask; None where it takes none.
    """

    mask_input: ClassVar[str | None] = None

    _encoder: JsonTextEncoder

    def encode(self, inputs: MaskedPromptInputs, options: EncodeOptions) -> Condition:
        """See `Family`. diffusers: `ChromaPipeline.encode_prompt`, `AuraFlowPipeline.encode_prompt`."""
        check_prompt_tokens(inputs, self.denoiser, self._encoder)
        states, mask, truncated = inputs.prompt_embeds, inputs.prompt_attention_mask, ("",) * inputs.count
        if states is None:
            states, mask, truncated = self._read(self._texts(inputs), inputs.max_sequence_length)
        negative, negative_mask = inputs.negative_prompt_embeds, inputs.negative_prompt_attention_mask
        if options.guided and negative is None:
            negative, negative_mask, _ = self._read(inputs.negative_texts(guided=True), states.shape[1])
        times = options.images_per_prompt
        return Condition(
            conditional=self._feeds(states, mask, times),
            unconditional=None if negative is None else self._feeds(negative, negative_mask, times),
            truncated=truncated,
        )

    def _texts(self, inputs: Any) -> list[str]:
        """Return the prompts as the text encoder reads them."""
        texts: list[str] = inputs.texts()
        return texts

    def _read(self, texts: list[str], tokens: int) -> MaskedPrompts:
        """Run the text encoder.

        Args:
            texts: The prompts, or the negative ones.
            tokens: Of each, with its padding.
        """
        raise NotImplementedError

    def _feeds(self, states: FloatArray, mask: Any, times: int) -> Feeds:
        """Return inputs of the denoiser, `times` rows for each prompt."""
        named = {"encoder_hidden_states": states} | ({self.mask_input: mask} if self.mask_input else {})
        return {name: np.repeat(np.asarray(array, np.float32), times, axis=0) for name, array in named.items()}
