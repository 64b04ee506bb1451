"""UnCLIPTextProjModel: the conditioning of an unCLIP decoder from image embeddings and prompts."""

from dataclasses import dataclass

import numpy as np

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.weight_tables import read_table

__all__ = ["UNCONDITIONAL", "DecoderConditioning", "UnCLIPTextProjModel"]

UNCONDITIONAL = "learned_classifier_free_guidance_embeddings"
"""Weight with the image embedding of the unconditional half."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecoderConditioning:
    """Conditioning of an unCLIP decoder.

    Attributes:
        encoder_hidden_states: float32 (B, extra + tokens, C): tokens of the image, then those of the text.
        class_labels: float32 (B, T), added to the embedding of the timestep.
    """

    encoder_hidden_states: FloatArray
    class_labels: FloatArray


class UnCLIPTextProjModel:
    """Runs the projection. diffusers: `UnCLIPTextProjModel`.

    Attributes:
        extra: Tokens of the image, in front of those of the text.
    """

    def __init__(self, session: EngineSession, component: str = "text_proj") -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no such component, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        session.bundle.engines(component)
        self.component = component
        config, subject = session.bundle.config(component), f"{component}/config.json"
        self.extra = integer(config, "clip_extra_context_tokens", 4, subject=subject)
        self._session = session

    def __call__(
        self, image_embeddings: FloatArray, prompt_embeds: FloatArray, text_encoder_hidden_states: FloatArray
    ) -> DecoderConditioning:
        """Project.

        Args:
            image_embeddings: float32 (N, D), of the conditional half.
            prompt_embeds: float32 (B, D); 2 N rows have the unconditional half first.
            text_encoder_hidden_states: float32 (B, tokens, D), likewise.

        Raises:
            BundleError: The bundle lacks the learned unconditional embedding.
            InputError: The image embeddings have another width than the network takes.
        """
        shapes = {spec.name: spec.shape for spec in self._session.inputs(self.component)}
        expected = shapes.get("image_embeddings", (None,))[-1]
        if isinstance(expected, int) and image_embeddings.shape[-1] != expected:
            raise InputError(
                f"image_embeddings: got {image_embeddings.shape[-1]} numbers for an image, expected {expected}, as the "
                f"checkpoint's image encoder makes them"
            )
        if len(prompt_embeds) == 2 * len(image_embeddings):
            width = image_embeddings.shape[1]
            learned = read_table(self._session.bundle, self.component, UNCONDITIONAL, (width,))
            image_embeddings = np.concatenate([np.broadcast_to(learned, image_embeddings.shape), image_embeddings])
        feeds = {
            "image_embeddings": image_embeddings,
            "prompt_embeds": prompt_embeds,
            "text_encoder_hidden_states": text_encoder_hidden_states,
        }
        outputs = Outputs(self._session.run(self.component, feeds), self.component)
        rows, tokens = text_encoder_hidden_states.shape[:2]
        return DecoderConditioning(
            encoder_hidden_states=outputs.take("encoder_hidden_states", (rows, self.extra + tokens, None)),
            class_labels=outputs.take("class_labels", (rows, None)),
        )
