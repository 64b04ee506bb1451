"""The prior of Stable Cascade: a prompt, and possibly images, to small latents for its decoder."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.tensors import is_tensor, to_array
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.clip_vision import CLIPVisionModelWithProjection
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.roles import IMAGE_ENCODER
from diffoundry.runtime.models.stable_cascade_unet import StableCascadeUNet
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.cascade_stage import CascadePrior, draw_features
from diffoundry.runtime.pipelines.systems.stable_cascade_inputs import (
    CascadeEmbeddings,
    StableCascadePriorInputs,
)

__all__ = ["StableCascadePrior"]


class StableCascadePrior(CascadePrior):
    """diffusers: `StableCascadePriorPipeline`.

    Pernias et al. 2023, https://arxiv.org/abs/2306.00637.

    Attributes:
        prior: Predicts the noise of small latents.
    """

    Inputs: ClassVar[type[Any]] = StableCascadePriorInputs
    decides = frozenset({"num_images_per_prompt", "negative_prompt", "prompt"})

    prior: StableCascadeUNet

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.prior = StableCascadeUNet(session, "prior")
        self.text_encoder = CLIPTextModel(session)
        has_encoder = bool(session.bundle.with_role(IMAGE_ENCODER))
        self._image_encoder = CLIPVisionModelWithProjection(session) if has_encoder else None
        self.text_encoders = (self.text_encoder,)

    @property
    def used_components(self) -> tuple[str, ...]:
        """See `StagedPipeline`: without images no image encoder."""
        return self.text_encoder.name, self.prior.component

    def images(self, inputs: StableCascadePriorInputs) -> int:
        """See `StagedPipeline`."""
        return inputs.count * inputs.num_images_per_prompt

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        self._check_images(call.inputs)
        return super().stages(call)

    def _check_images(self, inputs: StableCascadePriorInputs) -> None:
        """Refuse images without their encoder, and embeddings that do not fit.

        Raises:
            InputError: As said.
        """
        if inputs.images is not None:
            inputs.image_list()
            if self._image_encoder is None:
                raise InputError(
                    "images: got some, expected none: this bundle has no image encoder; pass image_embeds, or export a "
                    "checkpoint that has one"
                )
        if inputs.image_embeds is not None:
            shape: tuple[int, ...] = getattr(inputs.image_embeds, "shape", ())
            if len(shape) != 3 or shape[0] != 1 or shape[2] != self.prior.image_width:
                raise InputError(
                    f"image_embeds: got shape {tuple(shape)}, expected floats (1, images, {self.prior.image_width})"
                )

    def conditions(self, inputs: StableCascadePriorInputs) -> Feeds:
        """See `CascadePrior`."""
        states, pooled = self._encode(inputs, "")
        images = np.repeat(self._image_embeds(inputs), len(pooled), axis=0)
        if inputs.guidance_scale > 1:
            negatives = self._encode(inputs, "negative_")
            states, pooled = (np.concatenate(pair) for pair in zip((states, pooled), negatives, strict=True))
            images = np.concatenate([images, np.zeros_like(images)])
        return {"clip_text": states, "clip_text_pooled": pooled, "clip_img": images}

    def _encode(self, inputs: StableCascadePriorInputs, prefix: str) -> tuple[FloatArray, FloatArray]:
        """Return the hidden states of the texts before the final norm, and their pooled vectors, a row for each image.

        Args:
            inputs: The texts of a call, or their embeddings.
            prefix: "negative_" for the negative texts, otherwise empty.

        Returns:
            float32 (B, tokens, D) and (B, 1, P).
        """
        states, pooled = (getattr(inputs, f"{prefix}{name}") for name in ("prompt_embeds", "prompt_embeds_pooled"))
        if pooled is None:
            prompts = self.tokenize(inputs.negatives if prefix else inputs.texts)
            outputs = self.text_encoder.encode(prompts, 1).outputs
            states, pooled = outputs[f"hidden_states.{self.text_encoder.layers}"], outputs["text_embeds"][:, None]
        rows = [np.repeat(part, inputs.num_images_per_prompt, axis=0).astype(np.float32) for part in (states, pooled)]
        return rows[0], rows[1]

    def _image_embeds(self, inputs: StableCascadePriorInputs) -> FloatArray:
        """Return the embeddings of the images, float32 (1, images, E); zeros of one without any."""
        if inputs.image_embeds is not None:
            given: Any = inputs.image_embeds
            return np.asarray(to_array(given) if is_tensor(given) else given, np.float32)
        if inputs.images is None or self._image_encoder is None:
            return np.zeros((1, 1, self.prior.image_width), np.float32)
        return self._image_encoder(self._image_encoder.prepare(inputs.image_list()))[None]

    def result(self, call: StagedCall, latents: FloatArray, seed: Any, truncated: tuple[str, ...]) -> CascadeEmbeddings:
        """See `StagedPipeline`."""
        states, pooled = self._encode(call.inputs, "")
        negative_states, negative_pooled = self._encode(call.inputs, "negative_")
        return CascadeEmbeddings(
            image_embeddings=latents,
            prompt_embeds=states,
            prompt_embeds_pooled=pooled,
            negative_prompt_embeds=negative_states,
            negative_prompt_embeds_pooled=negative_pooled,
            seed=seed,
            truncated=truncated,
        )

    def measured_images(self, result: CascadeEmbeddings) -> FloatArray:
        """See `PipelineBase`."""
        return draw_features(result.image_embeddings)

    def handed_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`."""
        pooled = "images", 1, self.prior.pooled_width
        names = "prompt_embeds_pooled", "negative_prompt_embeds_pooled"
        return {**super().handed_shapes(), **dict.fromkeys(names, pooled)}
