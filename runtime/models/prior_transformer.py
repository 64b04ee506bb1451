"""PriorTransformer: denoises image embeddings on condition of a prompt, or of an image."""

from diffoundry.runtime.engines.outputs import only_output
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import time_feed
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.roles import PRIOR
from diffoundry.runtime.models.weight_tables import read_table

__all__ = ["STATISTICS", "PriorTransformer"]

STATISTICS = ("clip_mean", "clip_std")
"""Weights with the mean and the deviation of CLIP's image embeddings."""


class PriorTransformer:
    """Predicts image embeddings. diffusers: `PriorTransformer`.

    Its conditioning: "proj_embedding" (B, P), and of a prior that reads text "encoder_hidden_states" (B, tokens, D)
    with "attention_mask" (B, tokens), which is 1 for tokens of the prompt and 0 for padding.

    Attributes:
        component: Name of the component.
        width: D, the width of an embedding that it takes.
        tokens: Number of text tokens; without text the number of embeddings of an object, as in Shap-E.
        reads_text: True if it reads a text, and denoises one embedding.
        returned: Width of an embedding that it predicts.
    """

    def __init__(self, session: EngineSession) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no prior, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        self.component = session.bundle.component(PRIOR)
        config = session.bundle.config(self.component)
        subject = f"{self.component}/config.json"
        self.width = integer(config, "embedding_dim", 768, subject=subject)
        self.tokens = integer(config, "num_embeddings", 77, subject=subject)
        self.reads_text = config.get("encoder_hid_proj_type", "linear") is not None
        self.returned = integer(config, "clip_embed_dim", None, subject=subject) or self.width
        self._session = session

    def latent_shape(self, batch: int) -> tuple[int, ...]:
        """Return the shape of the noise for `batch` embeddings."""
        return (batch, self.width) if self.reads_text else (batch, self.tokens, self.width)

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """Predict.

        Args:
            sample: float32, of `latent_shape`.
            timestep: As the scheduler counts.
            conditioning: See above.

        Returns:
            float32 (B, D'), or (B, tokens, D') without text: predicted embeddings.
        """
        feeds = {"hidden_states": sample, "timestep": time_feed(timestep), **conditioning}
        outputs = self._session.run(self.component, feeds)
        return only_output(outputs, self.component, (*sample.shape[:-1], self.returned))

    def post_process_latents(self, latents: FloatArray) -> FloatArray:
        """Return embeddings (B, D) in CLIP's own scale. diffusers: `PriorTransformer.post_process_latents`.

        Raises:
            BundleError: The bundle lacks mean and deviation.
        """
        mean, deviation = self._statistics()
        return latents * deviation + mean

    def pre_process_embeddings(self, embeddings: FloatArray) -> FloatArray:
        """Return latents of embeddings (B, D): the inverse of `post_process_latents`.

        Raises:
            BundleError: The bundle lacks mean and deviation.
        """
        mean, deviation = self._statistics()
        return (embeddings - mean) / deviation

    def _statistics(self) -> tuple[FloatArray, ...]:
        """Read mean and deviation of embeddings."""
        return tuple(read_table(self._session.bundle, self.component, name, (1, self.returned)) for name in STATISTICS)
