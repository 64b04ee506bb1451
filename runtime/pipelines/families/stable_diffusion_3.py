"""Stable Diffusion 3 and 3.5: hidden states of two CLIP text encoders and of T5, and CLIP's pooled vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import as_list, check_number, is_whole
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.protocols import Denoiser, FloatArray
from diffoundry.runtime.models.sd3_transformer_2d import SD3Transformer2DModel
from diffoundry.runtime.models.t5_encoder import T5EncoderModel
from diffoundry.runtime.pipelines.families.clip_skip import check_clip_skip
from diffoundry.runtime.pipelines.families.pooled_prompts import (
    EncodedPrompts,
    PooledPromptFamily,
    PooledPromptInputs,
)
from diffoundry.runtime.pipelines.families.prompt_tokens import check_prompt_tokens
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance, Guidance, choose_guidance
from diffoundry.runtime.pipelines.inputs import CommonInputs, PromptInputs
from diffoundry.runtime.pipelines.skip_layer_guidance import SkipLayerGuidance

__all__ = ["SD3PromptInputs", "StableDiffusion3"]

_MOST_TOKENS = 512
_T5 = "text_encoder_3"
_SKIPS = ("skip_layer_guidance_scale", "skip_layer_guidance_start", "skip_layer_guidance_stop")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SD3PromptInputs(PooledPromptInputs):
    """The texts of one call; `prompt_2` is for the second CLIP text encoder.

    Attributes:
        prompt_3: For T5, one or one for each prompt; None takes `prompt`.
        negative_prompt_3: The same of the negative prompt; None takes `negative_prompt`.
        clip_skip: Further layers of both CLIP text encoders that are skipped, not for the negative prompts.
        skip_guidance_layers: Numbers of the layers that are skipped for skip-layer guidance, from 0; None is off.
            Recommended for 3.5 Medium are 7, 8 and 9. It needs guidance, and a further call of the denoiser in a step.
        skip_layer_guidance_scale: Factor of its term; None is 2.8.
        skip_layer_guidance_start: The fraction of the steps after which it begins; None is 0.01.
        skip_layer_guidance_stop: The fraction of the steps before which it ends; None is 0.2.
    """

    texts_for_others: ClassVar[tuple[str, ...]] = ("_2", "_3")

    prompt_3: str | Sequence[str] | None = None
    negative_prompt_3: str | Sequence[str] | None = None
    clip_skip: int | None = None
    skip_guidance_layers: Sequence[int] | None = None
    skip_layer_guidance_scale: float | None = None
    skip_layer_guidance_start: float | None = None
    skip_layer_guidance_stop: float | None = None

    def check(self) -> None:
        """See `PromptInputs.check`."""
        PooledPromptInputs.check(self)
        self._check_skips()
        if self.clip_skip is not None and self.prompt_embeds is not None:
            raise InputError("clip_skip: no encoder runs with prompt_embeds; leave it out")
        length = self.max_sequence_length
        if not isinstance(length, int) or not 2 <= length <= _MOST_TOKENS:
            raise InputError(f"max_sequence_length: got {length!r}, expected a whole number from 2 to {_MOST_TOKENS}")

    def _check_skips(self) -> None:
        """Refuse arguments of skip-layer guidance that are out of range, or mean nothing without its layers."""
        layers = self.skip_guidance_layers
        for name in _SKIPS:
            value = getattr(self, name)
            if value is not None and layers is None:
                raise InputError(f"{name} needs skip_guidance_layers, the numbers of the layers to skip; pass both")
            if value is not None:
                check_number(name, value, 0, np.inf if name == _SKIPS[0] else 1.0)
        whole = layers is None or (isinstance(layers, Sequence | np.ndarray) and all(map(is_whole, layers)))
        if not whole or (layers is not None and not len(layers)):
            raise InputError(
                f"skip_guidance_layers: got {layers!r}, expected a list of numbers of layers, such as [7, 8, 9]"
            )


class StableDiffusion3(PooledPromptFamily):
    """Two CLIP text encoders and T5, which a bundle may lack: zeros are its hidden states then.

    Esser et al. 2024, https://arxiv.org/abs/2403.03206. diffusers: `StableDiffusion3Pipeline`,
    `StableDiffusion3Img2ImgPipeline`, `StableDiffusion3InpaintPipeline`, `StableDiffusion3ControlNetPipeline`,
    `StableDiffusion3ControlNetInpaintingPipeline`.
    """

    Inputs: ClassVar[type[PromptInputs]] = SD3PromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {"num_inference_steps": 28, "guidance_scale": 7.0},
        "image_to_image": {"strength": 0.6, "guidance_scale": 7.0},
        "inpainting": {"strength": 0.6, "guidance_scale": 7.0},
    }
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"text_to_image": defaults["text_to_image"]}
    scales_latents: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text_to_image", "image_to_image", "inpainting")
    callback_tensors: ClassVar[Mapping[str, str]] = {
        "prompt_embeds": "encoder_hidden_states",
        "pooled_prompt_embeds": "pooled_projections",
    }

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser: SD3Transformer2DModel = SD3Transformer2DModel(session)
        self._clip = tuple(CLIPTextModel(session, name) for name in ("text_encoder", "text_encoder_2"))
        self._t5 = T5EncoderModel(session, _T5) if _T5 in session.bundle.components else None
        self.text_encoders = self._clip if self._t5 is None else (*self._clip, self._t5)
        self.choose_guidance = self._choose_guidance

    def _choose_guidance(self, inputs: CommonInputs, prompts: SD3PromptInputs, denoiser: Denoiser) -> Guidance:
        """Return the usual guidance, with skip-layer guidance where the call names layers."""
        plain = choose_guidance(inputs.guidance_scale, inputs.guidance_rescale, denoiser)
        if prompts.skip_guidance_layers is None:
            return plain
        skipped = self._skipped(prompts.skip_guidance_layers)
        if not isinstance(plain, ClassifierFreeGuidance):
            raise InputError(
                f"skip_guidance_layers: got {list(prompts.skip_guidance_layers)} with a guidance_scale of "
                f"{inputs.guidance_scale:g}, expected more than 1, since it is added to guidance; raise it"
            )
        scale, start, stop = (getattr(prompts, name) for name in _SKIPS)
        steps = inputs.num_inference_steps
        for own in (inputs.timesteps, inputs.sigmas):
            steps = steps if own is None else len(own)
        return SkipLayerGuidance(
            scale=plain.scale,
            rescale=plain.rescale,
            skipped=skipped,
            skip_scale=2.8 if scale is None else scale,
            first=steps * (0.01 if start is None else start),
            last=steps * (0.2 if stop is None else stop),
        )

    def _skipped(self, numbers: Sequence[int]) -> FloatArray:
        """Return the transformer's input for layers to skip, float32 (1, layers).

        Raises:
            InputError: The transformer has no such layer, or the bundle is of a version whose graph skips none.
        """
        count = self.denoiser.layers
        if count is None:
            raise InputError(
                "skip_guidance_layers: this bundle is of a version without skip-layer guidance; export it again"
            )
        for number in numbers:
            if not 0 <= number < count:
                raise InputError(
                    f"skip_guidance_layers: got {number}, expected numbers from 0 to {count - 1}: the transformer has "
                    f"{count} layers"
                )
        skipped = np.zeros((1, count), np.float32)
        skipped[:, list(numbers)] = 1.0
        return skipped

    def _check_prompts(self, inputs: SD3PromptInputs) -> None:
        """See `PooledPromptFamily`."""
        check_prompt_tokens(inputs, self.denoiser, self._t5, self._clip[0].length)
        for name in ("prompt_3", "negative_prompt_3"):
            if self._t5 is None and getattr(inputs, name) is not None:
                raise InputError(f"{name}: got one, but this bundle has no T5 text encoder to read it; leave it out")
        check_clip_skip(inputs.clip_skip or 0, min(encoder.layers for encoder in self._clip) - 1)

    def _encode(self, inputs: SD3PromptInputs, texts: list[str], *, negative: bool) -> EncodedPrompts:
        """See `PooledPromptFamily`; hidden states (B, 77 + tokens, D). An empty text takes the first, as in diffusers.

        Skipped layers of CLIP are those of the prompts alone.
        """
        second, third = inputs.prompt_2, inputs.prompt_3
        if negative:
            second, third = inputs.negative_prompt_2, inputs.negative_prompt_3
        skipped, tokens = 0 if negative else inputs.clip_skip or 0, inputs.max_sequence_length
        others = (as_list(own, len(texts)) if own else texts for own in (second, third))
        return self._encode_each((texts, *others), skipped, tokens)

    def _encode_each(self, texts: Sequence[list[str]], skipped: int, tokens: int) -> EncodedPrompts:
        """Return the results of all text encoders side by side.

        Args:
            texts: Of each encoder.
            skipped: As `clip_skip`.
            tokens: Of T5.
        """
        states, pooled, cut = [], [], [""] * len(texts[0])
        for encoder, own in zip(self._clip, texts, strict=False):
            encoded = encoder.encode(encoder.tokenize(own, weighting=False, long=False), 1)
            states.append(encoded.outputs[f"hidden_states.{encoder.layers - 1 - skipped}"])
            pooled.append(encoded.outputs["text_embeds"])
            cut = [old or new for old, new in zip(cut, encoded.truncated, strict=True)]
        if self._t5 is None:
            last = np.zeros((len(texts[0]), tokens, self.denoiser.width), np.float32)
        else:
            last, truncated = self._t5.encode(texts[-1], tokens)
            cut = [old or new for old, new in zip(cut, truncated, strict=True)]
        clip = np.concatenate(states, axis=-1)
        clip = np.pad(clip, ((0, 0), (0, 0), (0, last.shape[-1] - clip.shape[-1])))
        return np.concatenate([clip, last], axis=1), np.concatenate(pooled, axis=-1), tuple(cut)
