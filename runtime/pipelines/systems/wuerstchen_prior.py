"""The prior of Würstchen: a prompt to small latents for its decoder."""

from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.wuerstchen import WuerstchenPrior
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.systems.cascade_stage import CascadePrior, draw_features
from diffoundry.runtime.pipelines.systems.wuerstchen_inputs import WuerstchenEmbeddings, WuerstchenPriorInputs

__all__ = ["WuerstchenPriorPipeline"]


class WuerstchenPriorPipeline(CascadePrior):
    """diffusers: `WuerstchenPriorPipeline`.

    Pernias et al. 2023, https://arxiv.org/abs/2306.00637.

    Attributes:
        prior: Predicts the noise of small latents.
    """

    Inputs: ClassVar[type[Any]] = WuerstchenPriorInputs
    decides = frozenset({"num_images_per_prompt"})

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.prior = WuerstchenPrior(session)
        self.text_encoder = CLIPTextModel(session)
        self.text_encoders = (self.text_encoder,)

    def conditions(self, inputs: WuerstchenPriorInputs) -> Feeds:
        """See `CascadePrior`.

        Raises:
            InputError: Embeddings of the prompt and of its negative differ in their shape.
        """
        rows = [self._encode(inputs, "")]
        if inputs.guidance_scale > 1:
            rows.append(self._encode(inputs, "negative_"))
            if rows[0].shape != rows[1].shape:
                raise InputError(
                    f"prompt_embeds and negative_prompt_embeds: got shapes {rows[0].shape} and {rows[1].shape} for the "
                    f"prompt and its negative, expected the same; pass embeddings of both"
                )
        states = np.repeat(np.stack(rows), inputs.num_images_per_prompt, axis=1)
        return {"encoder_hidden_states": states.reshape(-1, *states.shape[2:]).astype(np.float32)}

    def _encode(self, inputs: WuerstchenPriorInputs, prefix: str) -> FloatArray:
        """Return the states of the texts, or of the negative texts, float32 (prompts, tokens, D)."""
        given: FloatArray | None = getattr(inputs, f"{prefix}prompt_embeds")
        if given is not None:
            return given
        prompts = self.tokenize(inputs.negatives if prefix else inputs.texts)
        return self.text_encoder.encode(prompts, 1).outputs["last_hidden_state"]

    def result(
        self,
        call: StagedCall,  # noqa: ARG002
        latents: FloatArray,
        seed: Any,
        truncated: tuple[str, ...],
    ) -> WuerstchenEmbeddings:
        """See `StagedPipeline`."""
        mean = np.float32(self.registered_number("latent_mean", 42.0))
        deviation = np.float32(self.registered_number("latent_std", 1.0, minimum=0))
        return WuerstchenEmbeddings(image_embeddings=latents * mean - deviation, seed=seed, truncated=truncated)

    def measured_images(self, result: WuerstchenEmbeddings) -> FloatArray:
        """See `PipelineBase`: the latents before they get the decoder's scale."""
        mean = np.float32(self.registered_number("latent_mean", 42.0))
        deviation = np.float32(self.registered_number("latent_std", 1.0, minimum=0))
        return draw_features((result.image_embeddings + deviation) / mean)
