"""Z-Image: hidden states of Qwen 3, and guidance whose norm and end can be limited."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_embeddings, check_number, check_prompts, check_texts
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.causal_lm import CausalLanguageModel
from diffoundry.runtime.models.protocols import Denoiser, FloatArray
from diffoundry.runtime.models.registry import open_controlnet
from diffoundry.runtime.models.roles import CONTROLNET
from diffoundry.runtime.models.z_image_transformer_2d import TOKEN_MULTIPLE, ZImageTransformer2DModel, padded_captions
from diffoundry.runtime.pipelines.families.base import EncodeOptions, Family
from diffoundry.runtime.pipelines.guidance import Condition, Guidance, Unguided
from diffoundry.runtime.pipelines.inputs import CommonInputs, PromptInputs
from diffoundry.runtime.pipelines.truncated_guidance import TruncatedGuidance

__all__ = ["CHAT", "HIDDEN_STATE", "TOKENS", "ZImage", "ZImagePromptInputs", "choose_guidance"]

TOKENS = 512
"""Default of diffusers' `max_sequence_length`."""

HIDDEN_STATE = -2
"""The last but one hidden state of Qwen 3. diffusers: `ZImagePipeline._encode_prompt`."""

CHAT = {"enable_thinking": True}
"""Arguments for its chat template."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ZImagePromptInputs(PromptInputs):
    """The texts of one call. Embeddings are hidden states without padding, and have one number of tokens in a call.

    Attributes:
        cfg_normalization: Largest norm of a guided prediction, in those of the prediction for the prompt; True is 1.
            False and 0 limit nothing.
        cfg_truncation: Time after which the prompt is not guided any more, from 0, noise, to 1; None and 1 guide to the
            end.
        max_sequence_length: Most tokens of a prompt, those of the chat around it included.
    """

    cfg_normalization: bool | float = False
    cfg_truncation: float | None = 1.0
    max_sequence_length: int = TOKENS

    def check(self) -> None:
        """See `PromptInputs.check`. The negative embeddings may have another number of tokens."""
        check_prompts("prompt", self.prompt)
        if (self.prompt is None) == (self.prompt_embeds is None):
            got = "neither" if self.prompt is None else "both"
            raise InputError(f"prompt and prompt_embeds: got {got}, expected one of them")
        if self.negative_prompt is not None and self.negative_prompt_embeds is not None:
            raise InputError("negative_prompt and negative_prompt_embeds: got both, expected one of them")
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            check_embeddings(name, getattr(self, name), self.count, 3)
        check_texts("negative_prompt", self.negative_prompt, self.count)
        check_number("cfg_normalization", float(self.cfg_normalization), 0)
        if self.cfg_truncation is not None:
            check_number("cfg_truncation", self.cfg_truncation, 0)
        check_number("max_sequence_length", self.max_sequence_length, 2, whole=True)


def choose_guidance(inputs: CommonInputs, prompts: ZImagePromptInputs, _denoiser: Denoiser) -> Guidance:
    """Return the guidance of a call. A scale of 0 is none. diffusers: `ZImagePipeline.__call__`."""
    if inputs.guidance_scale <= 0:
        return Unguided()
    end = prompts.cfg_truncation
    return TruncatedGuidance(
        scale=inputs.guidance_scale,
        largest=float(prompts.cfg_normalization),
        end=None if end is None or end > 1 else float(end),
    )


class ZImage(Family):
    """Qwen 3, and a transformer that sees a caption and an image as one sequence.

    Tongyi Lab 2025, https://arxiv.org/abs/2511.22699. diffusers: `ZImagePipeline`, `ZImageImg2ImgPipeline`,
    `ZImageInpaintPipeline`, `ZImageControlNetPipeline`, `ZImageControlNetInpaintPipeline`.
    """

    Inputs: ClassVar[type[PromptInputs]] = ZImagePromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {"guidance_scale": 5.0},
        "image_to_image": {"guidance_scale": 5.0, "strength": 0.6},
        "inpainting": {"guidance_scale": 5.0},
    }
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {"guidance_scale": 5.0, "controlnet_conditioning_scale": 0.75}
        for name in ("text_to_image", "controlnet_inpainting")
    }
    begin_index: ClassVar[int | None] = 0
    keeps_own_noise: ClassVar[bool] = True
    even_sigmas: ClassVar[bool] = True
    scales_latents: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text_to_image", "image_to_image", "inpainting")

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser: ZImageTransformer2DModel = ZImageTransformer2DModel(session)
        self._encoder = CausalLanguageModel(session, hidden_states=(HIDDEN_STATE,), tokens=TOKENS)
        self._chat = self._encoder.chat_prompt()
        self.text_encoders = (self._encoder,)
        self.choose_guidance = choose_guidance
        nets = [open_controlnet(session, name) for name in session.with_role(CONTROLNET)]
        if any(net.takes_kept_part for net in nets):
            own = (*(ZImage.tasks or ()), "controlnet_inpainting")
            self.tasks = own  # type: ignore[misc]  # of this bundle alone

    def encode(self, inputs: ZImagePromptInputs, options: EncodeOptions) -> Condition:
        """See `Family`. diffusers: `ZImagePipeline.encode_prompt`."""
        captions, truncated = self._captions(inputs.prompt_embeds, inputs.texts(), inputs)
        negative: list[FloatArray] = []
        if options.guided:
            texts = inputs.negative_texts(guided=True)
            negative, _ = self._captions(inputs.negative_prompt_embeds, texts, inputs)
        tokens = self._tokens([*captions, *negative], inputs)
        times = options.images_per_prompt
        positive, unconditional = (
            {name: np.repeat(rows, times, axis=0) for name, rows in padded_captions(one, tokens).items()}
            if one
            else None
            for one in (captions, negative)
        )
        assert positive is not None, "checked: at least one prompt"
        return Condition(conditional=positive, unconditional=unconditional, truncated=truncated)

    def _captions(
        self, embeddings: FloatArray | None, texts: list[str], inputs: ZImagePromptInputs
    ) -> tuple[list[FloatArray], tuple[str, ...]]:
        """Return hidden states (tokens, D) of each prompt without its padding, and the parts that were cut off."""
        if embeddings is not None:
            return list(embeddings.astype(np.float32)), ("",) * len(embeddings)
        encoded = self._encoder.encode(texts, inputs.max_sequence_length, chat=self._chat, longest=True)
        (states,) = encoded.hidden_states
        rows = zip(states, encoded.attention_mask > 0, strict=True)
        return [row[seen] for row, seen in rows], encoded.truncated

    def _tokens(self, captions: list[FloatArray], inputs: ZImagePromptInputs) -> int:
        """Return the number of tokens of the denoiser's inputs: the least, or that of an engine of one size.

        Raises:
            InputError: A caption is longer than the network or the engine takes.
        """
        longest = max(map(len, captions))
        padded = -(-longest // TOKEN_MULTIPLE) * TOKEN_MULTIPLE
        limit, most = self.denoiser.token_limit, self.denoiser.layout.lengths[0] - 2
        if padded > (most if limit is None else min(limit, most)):
            name = "prompt_embeds" if inputs.prompt is None else "max_sequence_length"
            expected = most if limit is None else min(limit, most)
            raise InputError(
                f"{name}: got {longest} tokens, expected at most {expected // TOKEN_MULTIPLE * TOKEN_MULTIPLE}: "
                f"{self.denoiser.component!r} takes no more; shorten the prompt"
            )
        return padded if limit is None else limit
