"""AuraFlow: hidden states of Pile-T5, zero where its padding is, and classifier-free guidance."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.auraflow_transformer_2d import AuraFlowTransformer2DModel
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.models.t5_encoder import T5EncoderModel
from diffoundry.runtime.pipelines.families.masked_prompts import MaskedPromptFamily, MaskedPromptInputs, MaskedPrompts
from diffoundry.runtime.pipelines.inputs import PromptInputs

__all__ = ["TOKENS", "AuraFlow"]

TOKENS = 256
"""Default of diffusers' `max_sequence_length`."""


class AuraFlow(MaskedPromptFamily):
    """Pile-T5, and a transformer whose positions are rows of a learned table.

    Cloneofsimo and others 2024, https://blog.fal.ai/auraflow. diffusers: `AuraFlowPipeline`. Masks of embeddings are
    not read: padding is zero in them already, as `AuraFlowPipeline.encode_prompt` makes it.
    """

    Inputs: ClassVar[type[PromptInputs]] = MaskedPromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {"num_inference_steps": 50, "guidance_scale": 3.5}
    }
    begin_index: ClassVar[int | None] = 0
    scales_latents: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text_to_image",)

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser = AuraFlowTransformer2DModel(session, open_vae(session).scale_factor)
        self._encoder: T5EncoderModel = T5EncoderModel(session, "text_encoder")
        self.text_encoders = (self._encoder,)

    def _read(self, texts: list[str], tokens: int) -> MaskedPrompts:
        """See `MaskedPromptFamily`."""
        states, truncated = self._encoder.encode(texts, tokens)
        mask = self._encoder.tokenizer(texts, max_length=tokens).attention_mask
        return states * mask[..., None].astype(np.float32), mask, truncated
