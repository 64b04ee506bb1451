"""Qwen-Image: hidden states of a language model, and guidance that keeps the length of every token."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_embeddings, check_number
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.causal_lm import CausalLanguageModel
from diffoundry.runtime.models.denoiser import PatchTransformer
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.qwen_image_transformer_2d import QwenImageTransformer2DModel
from diffoundry.runtime.pipelines.families.base import EncodeOptions
from diffoundry.runtime.pipelines.families.flux import PackedLatents
from diffoundry.runtime.pipelines.guidance import Condition, Guidance, Unguided
from diffoundry.runtime.pipelines.inputs import CommonInputs, PromptInputs
from diffoundry.runtime.pipelines.norm_guidance import NormKeepingGuidance
from diffoundry.runtime.tokenizers.chat_prompt import ChatPrompt

__all__ = [
    "DROPPED",
    "TOKENS",
    "EncodedTexts",
    "QwenImage",
    "QwenImagePromptInputs",
    "TrueGuidancePromptInputs",
    "choose_guidance",
    "padded_length",
]

TOKENS = 512
"""Default of diffusers' `max_sequence_length`."""

EncodedTexts = tuple[FloatArray, FloatArray, tuple[str, ...]]

_MOST_TOKENS = 1024
"""Most of diffusers' `max_sequence_length`."""

DROPPED = 34
"""Tokens of the text before a prompt, whose hidden states are dropped."""

_CHAT = ChatPrompt(
    prefix=(
        "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
        "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
    ),
    suffix="<|im_end|>\n<|im_start|>assistant\n",
)
"""diffusers: `prompt_template_encode` of `QwenImagePipeline`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrueGuidancePromptInputs(PromptInputs):
    """The texts of one call.

    Attributes:
        prompt_embeds_mask: Floats (B, tokens), 1 for a token of `prompt_embeds` and 0 for padding; None for no padding.
        negative_prompt_embeds_mask: The same of `negative_prompt_embeds`.
        true_cfg_scale: Scale of classifier-free guidance, which runs the transformer for the negative prompt too. 1 or
            less, and a call without a negative prompt, run without it.
    """

    prompt_embeds_mask: FloatArray | None = None
    negative_prompt_embeds_mask: FloatArray | None = None
    true_cfg_scale: float = 4.0

    def check(self) -> None:
        """See `PromptInputs.check`."""
        positive, negative = self.prompt_embeds, self.negative_prompt_embeds
        alone = positive is None or self.negative_prompt is not None
        PromptInputs.check(self if alone else replace(self, negative_prompt_embeds=None))
        check_embeddings("negative_prompt_embeds", negative, self.count, 3)
        if positive is not None and negative is not None and positive.shape[2] != negative.shape[2]:
            raise InputError(
                f"negative_prompt_embeds: got width {negative.shape[2]}, expected that of prompt_embeds, "
                f"{positive.shape[2]}"
            )
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            mask, embeddings = getattr(self, f"{name}_mask"), getattr(self, name)
            if mask is not None and (embeddings is None or np.shape(mask) != embeddings.shape[:2]):
                expected = f"{name} too" if embeddings is None else f"its {embeddings.shape[:2]}"
                raise InputError(f"{name}_mask: got shape {np.shape(mask)}, expected {expected}")
        check_number("true_cfg_scale", self.true_cfg_scale, 0)

    @property
    def guided(self) -> bool:
        """True if the transformer runs for a negative prompt. diffusers: `do_true_cfg` of `QwenImagePipeline`."""
        negative = self.negative_prompt is not None or self.negative_prompt_embeds is not None
        return self.true_cfg_scale > 1 and negative


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QwenImagePromptInputs(TrueGuidancePromptInputs):
    """The texts of one call.

    Attributes:
        max_sequence_length: Tokens of a prompt, from which longer ones are cut off.
    """

    max_sequence_length: int = TOKENS

    def check(self) -> None:
        """See `PromptInputs.check`."""
        TrueGuidancePromptInputs.check(self)
        check_number("max_sequence_length", self.max_sequence_length, 1, _MOST_TOKENS, whole=True)


def choose_guidance(
    _inputs: CommonInputs, prompts: QwenImagePromptInputs, _denoiser: QwenImageTransformer2DModel
) -> Guidance:
    """Guide by a negative prompt. See `Family.choose_guidance`."""
    return NormKeepingGuidance(scale=prompts.true_cfg_scale) if prompts.guided else Unguided()


class QwenImage(PackedLatents):
    """Qwen 2.5 VL, and a transformer over tokens of 2 x 2 latents.

    Qwen team 2025, https://arxiv.org/abs/2508.02324. diffusers: `QwenImagePipeline`, `QwenImageImg2ImgPipeline`,
    `QwenImageInpaintPipeline`, `QwenImageControlNetPipeline`, `QwenImageControlNetInpaintPipeline`.
    """

    Inputs: ClassVar[type[PromptInputs]] = QwenImagePromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {"num_inference_steps": 50},
        "image_to_image": {"num_inference_steps": 50, "strength": 0.6},
        "inpainting": {"num_inference_steps": 50, "strength": 0.6},
    }
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"text_to_image": {"num_inference_steps": 50}}

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser: QwenImageTransformer2DModel = QwenImageTransformer2DModel(session)
        self._language_model = CausalLanguageModel(session, hidden_states=(-1,), tokens=DROPPED + TOKENS)
        self.text_encoders = (self._language_model,)
        self.choose_guidance = choose_guidance

    def encode(self, inputs: QwenImagePromptInputs, options: EncodeOptions) -> Condition:
        """See `Family`. diffusers: `QwenImagePipeline.encode_prompt`."""
        most, reads = self._most(inputs), inputs.prompt is not None or inputs.negative_prompt is not None
        seen = self._look(options, inputs.count) if reads else None
        states, mask, truncated = inputs.prompt_embeds, inputs.prompt_embeds_mask, ("",) * inputs.count
        if inputs.prompt is not None:
            states, mask, truncated = self._encode(inputs.texts(), most, seen)
        rows = [_cut(states, mask, most)]
        if options.guided:
            negative, negative_mask = inputs.negative_prompt_embeds, inputs.negative_prompt_embeds_mask
            if negative is None:
                negative, negative_mask, _ = self._encode(inputs.negative_texts(guided=True), most, seen)
            rows.append(_cut(negative, negative_mask, most))
        length = padded_length(self.denoiser, max(one.shape[1] for one, _ in rows))
        conditional, *unconditional = (_feeds(*pair, length, options.images_per_prompt) for pair in rows)
        return Condition(
            conditional=conditional,
            unconditional=unconditional[0] if unconditional else None,
            truncated=truncated,
        )

    def _most(self, inputs: QwenImagePromptInputs) -> int | None:
        """Return the number of tokens from which prompts are cut off; None for none."""
        return inputs.max_sequence_length

    def _look(self, options: EncodeOptions, count: int) -> Any:  # noqa: ARG002
        """Return what the language model sees beside `count` prompts; by default nothing."""
        return None

    def _encode(self, texts: list[str], tokens: Any, seen: Any) -> EncodedTexts:  # noqa: ARG002
        """Return hidden states (B, tokens, D), their mask, and the part of each prompt that was cut off.

        Args:
            texts: The prompts, or the negative ones.
            tokens: Of `_most`.
            seen: Of `_look`.
        """
        encoded = self._language_model.encode(texts, DROPPED + tokens, chat=_CHAT, longest=True)
        (states,) = encoded.hidden_states
        return states[:, DROPPED:], encoded.attention_mask[:, DROPPED:], encoded.truncated


def padded_length(denoiser: PatchTransformer, tokens: int) -> int:
    """Return the number of tokens after padding that an engine takes.

    Args:
        denoiser: The network of the engine.
        tokens: Of the longest prompt.

    Raises:
        InputError: It takes fewer.
    """
    taken = denoiser.token_limit
    if taken is not None and tokens > taken:
        raise InputError(
            f"prompt: got {tokens} tokens, expected at most {taken}: the engine of {denoiser.component!r} was made for "
            f"no more; shorten it, or use an engine for onnxruntime or openvino"
        )
    return taken or tokens


def _cut(states: FloatArray | None, mask: FloatArray | None, tokens: int | None) -> tuple[FloatArray, FloatArray]:
    """Return the first tokens and their mask."""
    assert states is not None, "checked: a prompt or its embeddings"
    known = np.ones(states.shape[:2], np.float32) if mask is None else np.asarray(mask, np.float32)
    return states[:, :tokens], known[:, :tokens]


def _feeds(states: FloatArray, mask: FloatArray, length: int, times: int) -> dict[str, FloatArray]:
    """Return hidden states and mask, padded to a length, for several images of each prompt.

    Rows of states follow each other (a, a, b, b) and masks take turns (a, b, a, b), as in diffusers.
    """
    room = (0, 0), (0, length - states.shape[1])
    padded = np.pad(states.astype(np.float32) * mask[..., None], (*room, (0, 0)))
    return {
        "encoder_hidden_states": np.repeat(padded, times, axis=0),
        "encoder_hidden_states_mask": np.tile(np.pad(mask, room), (times, 1)),
    }
