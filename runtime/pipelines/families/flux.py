"""FLUX.1: hidden states of T5, CLIP's pooled vector, and guidance that is embedded, true, or both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from diffoundry.runtime.checks.arguments import as_list, check_number
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.flux_transformer_2d import PATCH, FluxTransformer2DModel, pack_latents, unpack_latents
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.families.flux_text import TOKENS, FluxTextEncoders
from diffoundry.runtime.pipelines.families.pooled_prompts import (
    EncodedPrompts,
    PooledPromptFamily,
    PooledPromptInputs,
)
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance, Guidance, Unguided
from diffoundry.runtime.pipelines.inputs import CommonInputs, PromptInputs

__all__ = ["TOKENS", "Flux", "FluxControl", "FluxFill", "FluxKontext", "FluxPromptInputs", "PackedLatents"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FluxPromptInputs(PooledPromptInputs):
    """The texts of one call; `prompt_2` is for T5.

    Attributes:
        true_cfg_scale: Scale of classifier-free guidance, which runs the transformer for the negative prompt too. 1 or
            less, and a call without a negative prompt, run without it.
        max_sequence_length: Tokens of T5.
    """

    true_cfg_scale: float = 1.0
    max_sequence_length: int = TOKENS

    def check(self) -> None:
        """See `PromptInputs.check`."""
        PooledPromptInputs.check(self)
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


class PackedLatents(Family):
    """Latents that are tokens of 2 x 2 in diffusers, from noise at the scheduler's first step on."""

    begin_index: ClassVar[int | None] = 0
    even_sigmas: ClassVar[bool] = True
    scales_latents: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text_to_image", "image_to_image", "inpainting")

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


class Flux(PackedLatents, PooledPromptFamily):
    """CLIP and T5, and a transformer over tokens of 2 x 2 latents.

    Black Forest Labs 2024, https://github.com/black-forest-labs/flux. diffusers: `FluxPipeline`, `FluxImg2ImgPipeline`,
    `FluxInpaintPipeline`, and these with a ControlNet.

    Attributes:
        texts: The text encoders.
    """

    Inputs: ClassVar[type[PromptInputs]] = FluxPromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {"num_inference_steps": 28, "guidance_scale": 3.5},
        "image_to_image": {"num_inference_steps": 28, "guidance_scale": 7.0, "strength": 0.6},
        "inpainting": {"num_inference_steps": 28, "guidance_scale": 7.0, "strength": 0.6},
    }
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **defaults,
        "text_to_image": {"num_inference_steps": 28, "guidance_scale": 7.0},
    }

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser: FluxTransformer2DModel = FluxTransformer2DModel(session)
        self.texts = FluxTextEncoders(session)
        self._t5 = self.texts.t5
        self.text_encoders = (self.texts.clip, self.texts.t5)
        self.choose_guidance = _choose_guidance

    def _encode(self, inputs: FluxPromptInputs, texts: list[str], *, negative: bool) -> EncodedPrompts:
        """See `PooledPromptFamily`. An empty text for T5 takes that of CLIP, as in diffusers."""
        second = inputs.negative_prompt_2 if negative else inputs.prompt_2
        own = as_list(second, len(texts)) if second else texts
        return self.texts.encode(texts, own, inputs.max_sequence_length)

    def prompt_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`."""
        layout = self.denoiser.layout
        return {
            "prompt_embeds": ("images", "tokens", layout.width),
            "pooled_prompt_embeds": ("images", layout.pooled_width),
        }


class FluxFill(Flux):
    """A transformer that also takes the mask and the kept part of an image. diffusers: `FluxFillPipeline`."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fill": {"num_inference_steps": 50, "guidance_scale": 30.0}}
    tasks: ClassVar[tuple[str, ...] | None] = ("fill",)


class FluxControl(Flux):
    """A transformer that also takes the latents of a control image.

    diffusers: `FluxControlPipeline`, `FluxControlImg2ImgPipeline`, `FluxControlInpaintPipeline`.
    """

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "control": {"num_inference_steps": 28, "guidance_scale": 3.5},
        "control_image_to_image": {"num_inference_steps": 28, "guidance_scale": 7.0, "strength": 0.6},
        "control_inpainting": {"num_inference_steps": 28, "guidance_scale": 7.0, "strength": 0.6},
    }
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = defaults
    tasks: ClassVar[tuple[str, ...] | None] = ("control", "control_image_to_image", "control_inpainting")


class FluxKontext(Flux):
    """A transformer that also sees another image, as further tokens.

    diffusers: `FluxKontextPipeline`, `FluxKontextInpaintPipeline`.
    """

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "reference": {"num_inference_steps": 28, "guidance_scale": 3.5},
        "kontext_inpainting": {"num_inference_steps": 28, "guidance_scale": 3.5, "strength": 1.0},
    }
    tasks: ClassVar[tuple[str, ...] | None] = ("reference", "kontext_inpainting")

    def size_arguments(self, height: int, width: int) -> dict[str, Any]:
        """See `Family`: those of a result of exactly this size, from an image of its own size."""
        return {"max_area": height * width, "_auto_resize": False}
