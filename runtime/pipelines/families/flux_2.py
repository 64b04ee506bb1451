"""FLUX.2: hidden states of several layers of a language model, side by side, and a transformer over tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import flag
from diffoundry.runtime.models.causal_lm import CausalLanguageModel
from diffoundry.runtime.models.flux2_transformer_2d import Flux2Transformer2DModel
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.families.base import EncodeOptions, Family
from diffoundry.runtime.pipelines.families.prompt_tokens import check_prompt_tokens
from diffoundry.runtime.pipelines.guidance import Condition, Guidance, Unguided, choose_guidance
from diffoundry.runtime.pipelines.inputs import CommonInputs, PromptInputs
from diffoundry.runtime.schedulers.dynamic_shift import empirical_mu

__all__ = [
    "DEV_LAYERS",
    "KLEIN_LAYERS",
    "SYSTEM_MESSAGE",
    "TOKENS",
    "Flux2",
    "Flux2DevPromptInputs",
    "Flux2KVPromptInputs",
    "Flux2Klein",
    "Flux2KleinKV",
    "Flux2PromptInputs",
]

KLEIN_LAYERS = 9, 18, 27
"""Hidden states of a prompt that lie side by side. diffusers: `text_encoder_out_layers` of `Flux2KleinPipeline`."""

DEV_LAYERS = 10, 20, 30
"""The same of `Flux2Pipeline`."""

SYSTEM_MESSAGE = """You are an AI that reasons about image descriptions. You give structured responses focusing on \
object relationships, object
attribution and actions without speculation."""
"""Message of the system before each prompt. diffusers: `pipelines.flux2.system_messages`."""

_IMAGE_TOKEN = "[IMG]"  # noqa: S105  # of Pixtral
"""Left out of prompts, as diffusers does. It would begin an image."""

TOKENS = 512
"""Default and most of diffusers' `max_sequence_length`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Flux2PromptInputs(PromptInputs):
    """The texts of one call.

    Attributes:
        max_sequence_length: Tokens of the text encoder, with those of its chat template.
    """

    max_sequence_length: int = TOKENS

    def check(self) -> None:
        """See `PromptInputs.check`."""
        PromptInputs.check(self)
        check_number("max_sequence_length", self.max_sequence_length, 1, TOKENS, whole=True)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Flux2DevPromptInputs(Flux2PromptInputs):
    """The texts of one call of FLUX.2 dev, which has no negative prompts.

    Attributes:
        guided: The guidance that there is instead.
    """

    guided: ClassVar[str] = "FLUX.2 dev is guided by guidance_scale alone, which its transformer takes"

    def check(self) -> None:
        """See `PromptInputs.check`."""
        Flux2PromptInputs.check(self)
        for name in ("negative_prompt", "negative_prompt_embeds"):
            if getattr(self, name) is not None:
                raise InputError(f"{name}: got one, expected none: {self.guided}; leave it out")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Flux2KVPromptInputs(Flux2DevPromptInputs):
    """The texts of one call of a distilled transformer with KV, which has no negative prompts either."""

    guided: ClassVar[str] = "this checkpoint is distilled, and never guided"


class Flux2Klein(Family):
    """Qwen3, and a transformer over tokens of 2 x 2 latents that also sees other images.

    Black Forest Labs 2026, https://github.com/black-forest-labs/flux2. diffusers: `Flux2KleinPipeline`,
    `Flux2KleinInpaintPipeline`.
    """

    Inputs: ClassVar[type[PromptInputs]] = Flux2PromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "editing": {"num_inference_steps": 50, "guidance_scale": 4.0},
        "reference_inpainting": {"num_inference_steps": 50, "guidance_scale": 8.0, "strength": 0.8},
    }
    begin_index: ClassVar[int | None] = 0
    compute_mu: Callable[[int, int], float] | None = staticmethod(empirical_mu)
    even_sigmas: ClassVar[bool] = True
    scales_latents: ClassVar[bool] = False
    returns_own_latents: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...] | None] = ("editing", "reference_inpainting")

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser: Flux2Transformer2DModel = Flux2Transformer2DModel(session)
        self._text = CausalLanguageModel(session, hidden_states=self.layers, tokens=TOKENS, padding_side=None)
        self.text_encoders = (self._text,)
        index = session.bundle.model_index
        self.distilled = flag(index, "is_distilled", default=False, subject="model_index.json")
        self.choose_guidance = self._choose_guidance

    @property
    def layers(self) -> tuple[int, ...]:
        """Hidden states of a prompt that lie side by side."""
        return KLEIN_LAYERS

    def _choose_guidance(self, inputs: CommonInputs, _prompts: Any, denoiser: Flux2Transformer2DModel) -> Guidance:
        """Return none for a distilled transformer; diffusers: `do_classifier_free_guidance`."""
        return Unguided() if self.distilled else choose_guidance(inputs.guidance_scale, 0.0, denoiser)

    def pack(self, latents: FloatArray) -> FloatArray:
        """See `Family`: tokens in a row, (B, tokens, 4 C)."""
        count, channels, height, width = latents.shape
        return latents.reshape(count, channels, height * width).transpose(0, 2, 1)

    def encode(self, inputs: Flux2PromptInputs, options: EncodeOptions) -> Condition:
        """See `Family`. diffusers: `Flux2KleinPipeline.encode_prompt`."""
        check_prompt_tokens(inputs, self.denoiser, self._text)
        states, truncated = inputs.prompt_embeds, ("",) * inputs.count
        if states is None:
            states, truncated = self._encode(inputs.texts(), inputs.max_sequence_length)
        negative = inputs.negative_prompt_embeds
        if options.guided and negative is None:
            negative, _ = self._encode(inputs.negative_texts(guided=True), inputs.max_sequence_length)
        times = options.images_per_prompt
        return Condition(
            conditional=_feeds(states, times),
            unconditional=_feeds(negative, times) if options.guided and negative is not None else None,
            truncated=truncated,
        )

    def _encode(self, texts: Sequence[str], tokens: int) -> tuple[FloatArray, tuple[str, ...]]:
        """Return hidden states side by side (B, tokens, 3 D), and the part of each prompt that was cut off."""
        encoded = self._text.encode(texts, tokens, chat=self._text.chat_prompt())
        return np.concatenate(encoded.hidden_states, axis=-1), encoded.truncated


class Flux2(Flux2Klein):
    """Mistral 3, and a transformer with the guidance scale as an input.

    diffusers: `Flux2Pipeline`.

    Attributes:
        ignored_args: Arguments that diffusers' class lacks.
    """

    ignored_args: ClassVar[tuple[str, ...]] = ("negative_prompt", "negative_prompt_embeds")

    Inputs: ClassVar[type[PromptInputs]] = Flux2DevPromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "editing": {"num_inference_steps": 50, "guidance_scale": 4.0}
    }
    tasks: ClassVar[tuple[str, ...] | None] = ("editing",)

    @property
    def layers(self) -> tuple[int, ...]:
        """See `Flux2Klein`."""
        return DEV_LAYERS

    def _choose_guidance(self, inputs: CommonInputs, _prompts: Any, denoiser: Flux2Transformer2DModel) -> Guidance:
        """Embed the scale, where the transformer takes it."""
        return Unguided(embedding=denoiser.embed_guidance(inputs.guidance_scale) if denoiser.embeds_guidance else {})

    def _encode(self, texts: Sequence[str], tokens: int) -> tuple[FloatArray, tuple[str, ...]]:
        """See `Flux2Klein`. diffusers: `format_input` of `Flux2Pipeline`."""
        return super()._encode([text.replace(_IMAGE_TOKEN, "") for text in texts], tokens)


class Flux2KleinKV(Flux2Klein):
    """A distilled transformer whose tokens of other images attend to themselves alone.

    diffusers: `Flux2KleinKVPipeline`, which keeps their keys and values from the first step on.

    Attributes:
        ignored_args: Arguments that diffusers' class lacks.
    """

    ignored_args: ClassVar[tuple[str, ...]] = ("guidance_scale", "negative_prompt", "negative_prompt_embeds")

    Inputs: ClassVar[type[PromptInputs]] = Flux2KVPromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"editing": {"num_inference_steps": 4, "guidance_scale": 1.0}}
    tasks: ClassVar[tuple[str, ...] | None] = ("editing",)

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        super().__init__(session)
        self.distilled = True


def _feeds(states: FloatArray, times: int) -> dict[str, FloatArray]:
    return {"encoder_hidden_states": np.repeat(states.astype(np.float32), times, axis=0)}
