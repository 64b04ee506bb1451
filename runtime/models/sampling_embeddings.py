"""LearnedClassifierFreeSamplingEmbeddings: prompts of length 1 for VQ-Diffusion, and the rows of no prompt."""

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import flag
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.weight_tables import read_table

__all__ = ["EMBEDDINGS", "LearnedClassifierFreeSamplingEmbeddings"]

EMBEDDINGS = "embeddings"
"""Weight with the hidden states of the unconditional half."""


class LearnedClassifierFreeSamplingEmbeddings:
    """Normalizes prompts, and reads the learned embeddings. diffusers: `LearnedClassifierFreeSamplingEmbeddings`.

    Attributes:
        learnable: True if the unconditional half has learned embeddings; False if it has those of the empty prompt.
    """

    def __init__(self, session: EngineSession, component: str = "learned_classifier_free_sampling_embeddings") -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no such component, or no config of it.
            ConfigError: A value of the config has another type.
        """
        session.bundle.engines(component)
        self.component = component
        config = session.bundle.config(component)
        self.learnable = flag(config, "learnable", default=False, subject=f"{component}/config.json")
        self._session = session

    def normalize(self, states: FloatArray) -> FloatArray:
        """Return hidden states (B, tokens, D), each token of length 1."""
        outputs = Outputs(self._session.run(self.component, {"hidden_states": states}), self.component)
        return outputs.take("normalized_states", states.shape)

    def embeddings(self, tokens: int, width: int) -> FloatArray:
        """Return the learned embeddings, float32 (tokens, width).

        Raises:
            BundleError: The bundle has none, or some of another shape.
        """
        return read_table(self._session.bundle, self.component, EMBEDDINGS, (tokens, width))
