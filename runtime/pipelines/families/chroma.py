"""Chroma: hidden states of T5 with a mask of their padding, and classifier-free guidance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.flux_transformer_2d import FluxTransformer2DModel
from diffoundry.runtime.models.t5_encoder import T5EncoderModel
from diffoundry.runtime.pipelines.families.flux import TOKENS, PackedLatents
from diffoundry.runtime.pipelines.families.masked_prompts import MaskedPromptFamily, MaskedPromptInputs, MaskedPrompts
from diffoundry.runtime.pipelines.inputs import PromptInputs

__all__ = ["Chroma", "ChromaPromptInputs"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChromaPromptInputs(MaskedPromptInputs):
    """The texts of one call. Chroma was trained with masks that have one token of padding.

    Attributes:
        max_sequence_length: Tokens of T5.
    """

    most_tokens: ClassVar[float] = TOKENS

    max_sequence_length: int = TOKENS


class Chroma(PackedLatents, MaskedPromptFamily):
    """T5, and a transformer over tokens of 2 x 2 latents that takes no guidance scale.

    Lodestone Rock 2025, https://huggingface.co/lodestones/Chroma1-HD. diffusers: `ChromaPipeline`,
    `ChromaImg2ImgPipeline`, `ChromaInpaintPipeline`.
    """

    Inputs: ClassVar[type[PromptInputs]] = ChromaPromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {"num_inference_steps": 35, "guidance_scale": 5.0},
        "image_to_image": {"num_inference_steps": 35, "guidance_scale": 5.0, "strength": 0.9},
        "inpainting": {
            "num_inference_steps": 28, "guidance_scale": 7.0, "strength": 0.6, "max_sequence_length": 256,
        },
    }  # fmt: skip
    mask_input: ClassVar[str | None] = "attention_mask"

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser = FluxTransformer2DModel(session)
        self._encoder: T5EncoderModel = T5EncoderModel(session, "text_encoder")
        self.text_encoders = (self._encoder,)

    def _read(self, texts: list[str], tokens: int) -> MaskedPrompts:
        """See `MaskedPromptFamily`; the mask has the tokens of a prompt and the first of its padding."""
        states, truncated = self._encoder.encode(texts, tokens)
        lengths = self._encoder.tokenizer(texts, max_length=tokens).attention_mask.sum(axis=1)
        return states, np.arange(tokens) <= lengths[:, None], truncated
