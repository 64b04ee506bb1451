"""The text encoders of FLUX.1: T5's hidden states, and CLIP's pooled vector."""

from collections.abc import Sequence

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.t5_encoder import T5EncoderModel
from diffoundry.runtime.pipelines.families.pooled_prompts import EncodedPrompts

__all__ = ["TOKENS", "FluxTextEncoders"]

TOKENS = 512
"""Default and most of diffusers' `max_sequence_length`."""


class FluxTextEncoders:
    """CLIP and T5 of a bundle.

    Attributes:
        session: The engines.
        clip: Gives the pooled vector.
        t5: Gives the hidden states.
    """

    def __init__(self, session: EngineSession) -> None:
        """Read the configs; engines are opened when first needed.

        Raises:
            BundleError: The bundle lacks an encoder, a tokenizer or a config.
        """
        self.session = session
        self.clip = CLIPTextModel(session)
        self.t5: T5EncoderModel = T5EncoderModel(session, "text_encoder_2")

    def encode(self, texts: Sequence[str], others: Sequence[str], tokens: int) -> EncodedPrompts:
        """Encode prompts; CLIP's part of a longer one is cut off silently, because T5 reads all of it.

        Args:
            texts: For CLIP.
            others: For T5, as many.
            tokens: Of T5.
        """
        states, truncated = self.t5.encode(list(others), tokens)
        pooled = self.clip.encode(self.clip.tokenize(list(texts), weighting=False, long=False), 1)
        return states, pooled.outputs["pooler_output"], truncated
