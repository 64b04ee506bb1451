"""FLUX.1: hidden states of T5, CLIP's pooled vector, and guidance that is embedded, true, or both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import as_list, check_embeddings, check_number, check_texts
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.flux_transformer_2d import PATCH, FluxTransformer2DModel, pack_latents, unpack_latents
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.t5_encoder import T5EncoderModel
from diffoundry.runtime.pipelines.families.base import EncodeOptions, Family
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance, Condition, Guidance, Unguided
from diffoundry.runtime.pipelines.inputs import CommonInputs, PromptInputs

__all__ = ["TOKENS", "Flux", "FluxControl", "FluxFill", "FluxKontext", "FluxPromptInputs"]

TOKENS = 512
"""Default and most of diffusers' `max_sequence_length`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FluxPromptInputs(PromptInputs):
    """The texts of one call.

    Attributes:
        prompt_2: For T5, one or one for each prompt; None takes `prompt`.
        negative_prompt_2: The same of the negative prompt; None takes `negative_prompt`.
        pooled_prompt_embeds: float32 (B, P), the pooled vector that belongs to `prompt_embeds`.
        negative_pooled_prompt_embeds: The same of `negative_prompt_embeds`.
        true_cfg_scale: Scale of classifier-free guidance, which runs the transformer for the negative prompt too. 1 or
            less, and a call without a negative prompt, run without it.
        max_sequence_length: Tokens of T5.
    """

    prompt_2: str | Sequence[str] | None = None
    negative_prompt_2: str | Sequence[str] | None = None
    pooled_prompt_embeds: FloatArray | None = None
    negative_pooled_prompt_embeds: FloatArray | None = None
    true_cfg_scale: float = 1.0
    max_sequence_length: int = TOKENS

    def check(self) -> None:
        """See `PromptInputs.check`."""
        PromptInputs.check(self)
        for name, embeddings in (("prompt", self.prompt_embeds), ("negative_prompt", self.negative_prompt_embeds)):
            text, pooled = f"{name}_2", f"{name.removesuffix('prompt')}pooled_prompt_embeds"
            check_texts(text, getattr(self, text), self.count)
            if embeddings is not None and getattr(self, text) is not None:
                raise InputError(f"{text} and {name}_embeds: got both, expected one of them")
            check_embeddings(pooled, getattr(self, pooled), self.count, 2)
            if (embeddings is None) != (getattr(self, pooled) is None):
                raise InputError(f"{name}_embeds and {pooled}: got one of them, expected both")
        check_number("true_cfg_scale", self.true_cfg_scale, 0)
        check_number("max_sequence_length", self.max_sequence_length, 2, TOKENS, whole=True)

    @property
    def guided(self) -> bool:
        """True if the transformer runs for a negative prompt. diffusers: `do_true_cfg` of `FluxPipeline.__call__`."""
        negative = self.negative_prompt is not None or self.negative_prompt_embeds is not None
        return self.true_cfg_scale > 1 and negative


def _choose_guidance(inputs: CommonInputs, prompts: FluxPromptInputs, denoiser: FluxTransformer2DModel) -> Guidance:
    """Embed `guidance_scale` where the transformer takes it, and guide by a negative prompt."""
    embedding = denoiser.embed_guidance(inputs.guidance_scale) if denoiser.embeds_guidance else {}
    if prompts.guided:
        return ClassifierFreeGuidance(scale=prompts.true_cfg_scale, embedding=embedding)
    return Unguided(embedding=embedding)


class Flux(Family):
    """CLIP and T5, and a transformer over tokens of 2 x 2 latents.

    Black Forest Labs 2024, https://github.com/black-forest-labs/flux. diffusers: `FluxPipeline`, `FluxImg2ImgPipeline`,
    `FluxInpaintPipeline`.
    """

    Inputs: ClassVar[type[PromptInputs]] = FluxPromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {"num_inference_steps": 28, "guidance_scale": 3.5},
        "image_to_image": {"num_inference_steps": 28, "guidance_scale": 7.0, "strength": 0.6},
        "inpainting": {"num_inference_steps": 28, "guidance_scale": 7.0, "strength": 0.6},
    }
    begin_index: ClassVar[int | None] = 0
    even_sigmas: ClassVar[bool] = True
    scales_latents: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text_to_image", "image_to_image", "inpainting")

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser: FluxTransformer2DModel = FluxTransformer2DModel(session)
        self._clip = CLIPTextModel(session)
        self._t5 = T5EncoderModel(session, "text_encoder_2")
        self.text_encoders = (self._clip, self._t5)
        self.choose_guidance = _choose_guidance

    def pack(self, latents: FloatArray) -> FloatArray:
        """See `Family`: tokens in a row, (B, tokens, 4 C)."""
        tokens = pack_latents(latents)
        return tokens.reshape(len(tokens), -1, tokens.shape[-1])

    def unpack(self, latents: FloatArray, shape: tuple[int, ...]) -> FloatArray:
        """See `Family`."""
        rows, columns = (side // PATCH for side in shape[2:])
        if latents.shape != (shape[0], rows * columns, PATCH**2 * shape[1]):
            return latents
        return unpack_latents(latents.reshape(len(latents), rows, columns, -1))

    def encode(self, inputs: FluxPromptInputs, options: EncodeOptions) -> Condition:
        """See `Family`. diffusers: `FluxPipeline.encode_prompt`."""
        self._check_tokens(inputs)
        states, pooled, truncated = inputs.prompt_embeds, inputs.pooled_prompt_embeds, ("",) * inputs.count
        if inputs.prompt is not None:
            states, pooled, truncated = self._encode(inputs.texts(), inputs.prompt_2, inputs.max_sequence_length)
        negative, negative_pooled = inputs.negative_prompt_embeds, inputs.negative_pooled_prompt_embeds
        if options.guided and negative is None:
            texts = inputs.negative_texts(guided=True)
            negative, negative_pooled, _ = self._encode(texts, inputs.negative_prompt_2, inputs.max_sequence_length)
        times = options.images_per_prompt
        return Condition(
            conditional=_feeds(states, pooled, times),
            unconditional=_feeds(negative, negative_pooled, times) if options.guided else None,
            truncated=truncated,
        )

    def _check_tokens(self, inputs: FluxPromptInputs) -> None:
        """Refuse numbers of tokens that engines of one size do not take.

        Raises:
            InputError: An engine was made for another number.
        """
        given, taken = inputs.prompt_embeds, self.denoiser.token_limit
        if given is None:
            self._t5.check_tokens(inputs.max_sequence_length)
        tokens = inputs.max_sequence_length if given is None else given.shape[1]
        if taken is not None and tokens != taken:
            name = "max_sequence_length" if given is None else "prompt_embeds"
            raise InputError(
                f"{name}: got {tokens} tokens, expected {taken}: the engine of {self.denoiser.component!r} was made "
                f"for no other number; leave it out, or use an engine for onnxruntime or openvino"
            )

    def _encode(
        self, texts: list[str], second: str | Sequence[str] | None, tokens: int
    ) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
        """Return hidden states (B, tokens, D), pooled vectors (B, P), and the parts that T5 cut off.

        CLIP's part of a longer prompt is cut off silently, because T5 reads all of it.

        Args:
            texts: Of CLIP.
            second: Of T5; an empty argument takes those of CLIP, as in diffusers.
            tokens: Of T5.
        """
        states, truncated = self._t5.encode(as_list(second, len(texts)) if second else texts, tokens)
        pooled = self._clip.encode(self._clip.tokenize(texts, weighting=False, long=False), 1)
        return states, pooled.outputs["pooler_output"], truncated


class FluxFill(Flux):
    """A transformer that also takes the mask and the kept part of an image. diffusers: `FluxFillPipeline`."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fill": {"num_inference_steps": 50, "guidance_scale": 30.0}}
    tasks: ClassVar[tuple[str, ...] | None] = ("fill",)


class FluxControl(Flux):
    """A transformer that also takes the latents of a control image. diffusers: `FluxControlPipeline`."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "control": {"num_inference_steps": 28, "guidance_scale": 3.5}
    }
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = defaults
    tasks: ClassVar[tuple[str, ...] | None] = ("control",)


class FluxKontext(Flux):
    """A transformer that also sees another image, as further tokens. diffusers: `FluxKontextPipeline`."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "reference": {"num_inference_steps": 28, "guidance_scale": 3.5}
    }
    tasks: ClassVar[tuple[str, ...] | None] = ("reference",)

    def size_arguments(self, height: int, width: int) -> dict[str, Any]:
        """See `Family`: those of a result of exactly this size, from an image of its own size."""
        return {"max_area": height * width, "_auto_resize": False}


def _feeds(states: FloatArray | None, pooled: FloatArray | None, times: int) -> dict[str, FloatArray]:
    assert states is not None, "checked: a prompt or its embeddings"
    assert pooled is not None, "checked: together with the hidden states"
    return {
        "encoder_hidden_states": np.repeat(states.astype(np.float32), times, axis=0),
        "pooled_projections": np.repeat(pooled.astype(np.float32), times, axis=0),
    }
