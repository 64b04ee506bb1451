"""Base of Sana's pipelines: captions behind an instruction, read by a language model."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.causal_lm import CausalLanguageModel
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.models.sana_transformer_2d import SanaTransformer2DModel
from diffoundry.runtime.pipelines.systems.caption_pipeline import CaptionPipeline
from diffoundry.runtime.pipelines.systems.captions import prepare_captions
from diffoundry.runtime.pipelines.systems.sana_inputs import ENCODER_TOKENS

__all__ = ["SanaBase"]

_TEXT_ENCODER = "text_encoder"

_MOST_TOKENS = 4096
"""Tokens of Gemma 2's sliding window, which graphs leave out."""


class SanaBase(CaptionPipeline):
    """The networks that all Sana pipelines have."""

    encoder_label: ClassVar[str] = "Gemma 2"
    table_pixels: ClassVar[int] = 32
    masks_take_turns: ClassVar[bool] = True
    scales_latents: ClassVar[bool] = False  # type: ignore[misc]  # as `StagedPipeline`

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.vae = open_vae(session)
        self.transformer: SanaTransformer2DModel = SanaTransformer2DModel(session)
        self.denoiser = self.transformer
        self.text_encoder = None
        if _TEXT_ENCODER in session.bundle.components:
            self.text_encoder = CausalLanguageModel(session, _TEXT_ENCODER, hidden_states=(-1,), tokens=ENCODER_TOKENS)
        self.text_encoders = () if self.text_encoder is None else (self.text_encoder,)

    def truncated(self, inputs: Any) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        texts = inputs.texts()
        if self.text_encoder is None or not texts:
            return ("",) * int(inputs.count)
        captions, tokens = self._captions(texts, inputs, inputs.max_sequence_length, negative=False)
        cut: tuple[str, ...] = self.text_encoder.tokenizer(captions, max_length=tokens).truncated
        return cut

    def encode(
        self, texts: Sequence[str], inputs: Any, tokens: int, *, negative: bool
    ) -> tuple[FloatArray, FloatArray]:
        """See `CaptionPipeline`: the first token and the last ones. diffusers: `SanaPipeline.encode_prompt`.

        Rows of padding are zeros. The transformer does not see them.
        """
        captions, read = self._captions(texts, inputs, tokens, negative=negative)
        encoded = self.text_encoder.encode(captions, tokens=read, longest=True)
        rows = min(read, encoded.attention_mask.shape[1])
        states = np.zeros((len(texts), read, self.transformer.width), np.float32)
        mask = np.zeros((len(texts), read), np.float32)
        states[:, :rows], mask[:, :rows] = encoded.hidden_states[0][:, :rows], encoded.attention_mask[:, :rows]
        kept = [0, *range(read - tokens + 1, read)]
        return states[:, kept], mask[:, kept]

    def _captions(self, texts: Sequence[str], inputs: Any, tokens: int, *, negative: bool) -> tuple[list[str], int]:
        """Return the captions with their instruction, which negative prompts lack, and the number of their tokens.

        Raises:
            InputError: They are too many.
        """
        captions, read = prepare_captions(texts, inputs.clean_caption), tokens
        if inputs.complex_human_instruction and not negative:
            instruction = "\n".join(inputs.complex_human_instruction)
            batch = self.text_encoder.tokenizer([instruction], max_length=_MOST_TOKENS, pad_to=0)
            captions, read = [instruction + text for text in captions], int(batch.attention_mask.sum()) + tokens - 2
        if read > _MOST_TOKENS:
            raise InputError(
                f"max_sequence_length: got {tokens}, {read} tokens with complex_human_instruction, expected at most "
                f"{_MOST_TOKENS}, the sliding window of Gemma 2; pass fewer, or a shorter instruction"
            )
        return captions, read

    def check_tokens(self, tokens: int) -> None:
        """See `CaptionPipeline`: nothing, because padding is on the right, where no token of a prompt sees it."""
