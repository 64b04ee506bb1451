"""Lumina-Image 2.0: hidden states of Gemma 2, and guidance that keeps the norm of a prediction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_number, check_type
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.causal_lm import CausalLanguageModel
from diffoundry.runtime.models.lumina2_transformer_2d import MASK, Lumina2Transformer2DModel
from diffoundry.runtime.models.protocols import Denoiser, Feeds, FloatArray
from diffoundry.runtime.pipelines.families.masked_prompts import MaskedPromptFamily, MaskedPromptInputs, MaskedPrompts
from diffoundry.runtime.pipelines.guidance import Guidance, Unguided
from diffoundry.runtime.pipelines.inputs import CommonInputs, PromptInputs
from diffoundry.runtime.pipelines.row_norm_guidance import RowNormGuidance

__all__ = ["HIDDEN_STATE", "TOKENS", "Lumina2", "Lumina2PromptInputs"]

TOKENS = 256
"""Default of diffusers' `max_sequence_length`."""

HIDDEN_STATE = -2
"""The last but one hidden state of Gemma 2. diffusers: `Lumina2Pipeline._get_gemma_prompt_embeds`."""

_MOST_TOKENS = 512
_SYSTEM_PROMPT = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts."
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lumina2PromptInputs(MaskedPromptInputs):
    """The texts of one call.

    Attributes:
        system_prompt: Instruction before each prompt, not before negative ones. None takes that of the training.
        cfg_trunc_ratio: Fraction of the steps with guidance, 0 to 1; the others run the prompt alone.
        cfg_normalization: True or 1 gives each row of a guided prediction the norm of that for the prompt.
        max_sequence_length: Tokens of a prompt with the instruction and padding.
    """

    most_tokens: ClassVar[float] = _MOST_TOKENS

    system_prompt: str | None = None
    cfg_trunc_ratio: float = 1.0
    cfg_normalization: bool | float = True

    def check(self) -> None:
        """See `PromptInputs.check`."""
        MaskedPromptInputs.check(self)
        check_number("cfg_trunc_ratio", self.cfg_trunc_ratio, 0, 1.0)
        if self.cfg_normalization not in (0, 1):
            raise InputError(f"cfg_normalization: got {self.cfg_normalization!r}, expected True or False")
        check_type("system_prompt", self.system_prompt, str | None, "a text")


def _choose_guidance(inputs: CommonInputs, prompts: Lumina2PromptInputs, _denoiser: Denoiser) -> Guidance:
    """Return the guidance of a call. diffusers: `Lumina2Pipeline.__call__`."""
    if inputs.guidance_scale <= 1:
        return Unguided()
    own = next((values for values in (inputs.timesteps, inputs.sigmas) if values is not None), None)
    steps = inputs.num_inference_steps if own is None else len(own)
    return RowNormGuidance(
        scale=inputs.guidance_scale,
        normalizes=bool(prompts.cfg_normalization),
        steps=steps,
        until=prompts.cfg_trunc_ratio,
    )


class Lumina2(MaskedPromptFamily):
    """Gemma 2, and a transformer that sees a prompt and an image as one sequence.

    Qin et al. 2025, https://arxiv.org/abs/2503.21758. diffusers: `Lumina2Pipeline`.
    """

    Inputs: ClassVar[type[PromptInputs]] = Lumina2PromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {"num_inference_steps": 30, "guidance_scale": 4.0}
    }
    begin_index: ClassVar[int | None] = 0
    even_sigmas: ClassVar[bool] = True
    scales_latents: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text_to_image",)

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser = Lumina2Transformer2DModel(session)
        self._encoder: CausalLanguageModel = CausalLanguageModel(session, hidden_states=(HIDDEN_STATE,), tokens=TOKENS)
        self.text_encoders = (self._encoder,)
        self.choose_guidance = _choose_guidance

    def _texts(self, inputs: Lumina2PromptInputs) -> list[str]:
        """See `MaskedPromptFamily`: with the instruction."""
        system = _SYSTEM_PROMPT if inputs.system_prompt is None else inputs.system_prompt
        return [f"{system} <Prompt Start> {text}" for text in inputs.texts()]

    def _read(self, texts: list[str], tokens: int) -> MaskedPrompts:
        """See `MaskedPromptFamily`."""
        encoded = self._encoder.encode(texts, tokens)
        (states,) = encoded.hidden_states
        return states, encoded.attention_mask, encoded.truncated

    def _feeds(self, states: FloatArray, mask: Any, times: int) -> Feeds:
        """See `MaskedPromptFamily`. Masks of several images take turns while states do not, as in diffusers."""
        return {
            "encoder_hidden_states": np.repeat(states.astype(np.float32), times, axis=0),
            MASK: np.tile(np.asarray(mask, np.float32), (times, 1)),
        }
