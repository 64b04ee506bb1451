"""Stable Diffusion 1.x and 2.x: the hidden states of one CLIP text encoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.depth_estimator import DPTForDepthEstimation
from diffoundry.runtime.models.prompt_weights import scale_states
from diffoundry.runtime.models.protocols import Denoiser, Feeds, FloatArray
from diffoundry.runtime.models.roles import DEPTH_ESTIMATOR
from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel
from diffoundry.runtime.pipelines.families.base import EncodeOptions, Family
from diffoundry.runtime.pipelines.families.clip_skip import skip_layers
from diffoundry.runtime.pipelines.guidance import Condition
from diffoundry.runtime.pipelines.inputs import PromptInputs

__all__ = ["CLIPPromptInputs", "StableDiffusion", "check_token_count"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CLIPPromptInputs(PromptInputs):
    """Prompts for CLIP text encoders.

    Attributes:
        clip_skip: Layers of the text encoders that are skipped for the prompts, not for the negative ones; None for
            none.
        prompt_weighting: True if brackets in prompts are weights: `(word:1.3)`, `(word)`, `[word]`; see
            `parse_weights`.
        long_prompts: True if text beyond a text encoder's 77 tokens goes into further chunks. Otherwise it is cut off.
    """

    clip_skip: int | None = None
    prompt_weighting: bool = False
    long_prompts: bool = False

    def check(self) -> None:
        """See `PromptInputs.check`."""
        PromptInputs.check(self)
        if self.clip_skip is not None and self.prompt_embeds is not None:
            raise InputError("clip_skip: no encoder runs with prompt_embeds; leave it out")
        for name in ("prompt_weighting", "long_prompts"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}: got {getattr(self, name)!r}, expected True or False")


class StableDiffusion(Family):
    """Rombach et al. 2022, https://arxiv.org/abs/2112.10752. diffusers: `StableDiffusionPipeline`."""

    Inputs: ClassVar[type[PromptInputs]] = CLIPPromptInputs
    returns_flags: ClassVar[bool] = True
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {},
        "image_to_image": {"controlnet_conditioning_scale": 0.8},
        "inpainting": {"controlnet_conditioning_scale": 0.5},
    }

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser = UNet2DConditionModel(session)
        self._encoder = CLIPTextModel(session)
        self.text_encoders = (self._encoder,)
        if session.bundle.with_role(DEPTH_ESTIMATOR):
            self.depth_estimator = DPTForDepthEstimation(session)

    def encode(self, inputs: CLIPPromptInputs, options: EncodeOptions) -> Condition:
        """See `Family`. diffusers: `StableDiffusionPipeline.encode_prompt`."""
        negatives, texts = inputs.negative_texts(guided=options.guided), inputs.texts()
        rows, truncated = self._encode(negatives, texts, inputs)
        unconditional, conditional = np.split(rows, [len(negatives)])
        if inputs.prompt_embeds is not None:
            conditional = inputs.prompt_embeds
        if inputs.negative_prompt_embeds is not None:
            unconditional = inputs.negative_prompt_embeds
        return Condition(
            conditional=_feeds(conditional, options),
            unconditional=_feeds(unconditional, options) if options.guided else None,
            truncated=truncated[len(negatives) :] or ("",) * inputs.count,
        )

    def _encode(
        self, negatives: list[str], texts: list[str], inputs: CLIPPromptInputs
    ) -> tuple[FloatArray, tuple[str, ...]]:
        """Return hidden states (B, tokens, D), the negatives first, and the parts cut off; nothing without texts."""
        if not negatives + texts:
            return np.zeros((0, 0, 0), np.float32), ()
        encoder = self._encoder
        prompts = encoder.tokenize(negatives + texts, weighting=inputs.prompt_weighting, long=inputs.long_prompts)
        chunks = encoder.chunks(prompts)
        check_token_count(self.denoiser, chunks * encoder.length)
        encoded = encoder.encode(prompts, chunks)
        last = encoded.outputs["last_hidden_state"]
        if inputs.clip_skip not in (None, 0):
            rows = len(negatives) * chunks
            last = np.concatenate([last[:rows], skip_layers(encoded, inputs.clip_skip)[rows:]])
        states = encoded.join(last)
        if inputs.prompt_weighting:
            states = scale_states(states, encoded.weights)
        return states, encoded.truncated


def check_token_count(denoiser: Denoiser, count: int) -> None:
    """Refuse another number of tokens than the denoiser's engine takes, before any work.

    Raises:
        InputError: As said.
    """
    limit = denoiser.token_limit
    if limit is not None and limit != count:
        raise InputError(
            f"long_prompts: got {count} tokens, expected {limit}: the engine of {denoiser.component!r} was made for no "
            f"other number; shorten the prompts, or use an engine for onnxruntime or openvino"
        )


def _feeds(states: FloatArray, options: EncodeOptions) -> Feeds:
    return {"encoder_hidden_states": np.repeat(states.astype(np.float32), options.images_per_prompt, axis=0)}
