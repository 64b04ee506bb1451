"""Transformer2DModel over codes: the denoiser of VQ-Diffusion."""

from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import time_feed
from diffoundry.runtime.formats.config_values import MAX_SIDE, integer
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.denoiser import DenoiserNetwork
from diffoundry.runtime.models.protocols import Feeds, FloatArray

__all__ = ["Transformer2DModel"]


class Transformer2DModel(DenoiserNetwork):
    """A `Denoiser` over codes int64 (B, pixels), rows of an image one after another. diffusers: `Transformer2DModel`.

    Its conditioning: "encoder_hidden_states" (B, tokens, D).

    Attributes:
        classes: Number of codes, with the mask, which is the last.
        steps: Number of timesteps that it has embeddings of.
        side: Codes to a side of an image, which is square.
        width: D, the width of the prompt's hidden states.
    """

    in_channels = 1

    def __init__(self, session: EngineSession) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no denoiser, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session)
        config, subject = self._config, self._subject
        self.classes = integer(config, "num_vector_embeds", 0, subject=subject, minimum=2)
        self.steps = integer(config, "num_embeds_ada_norm", 0, subject=subject)
        self.width = integer(config, "cross_attention_dim", 0, subject=subject)
        self.side = integer(config, "sample_size", 0, subject=subject, maximum=MAX_SIDE)
        self.sample_size = (self.side, self.side)
        self.out_channels = self.classes - 1
        heads = integer(config, "num_attention_heads", 16, subject=subject)
        self.first_channels = heads * integer(config, "attention_head_dim", 88, subject=subject)

    def latent_shape(self, batch: int, height: int, width: int, vae: AutoencoderKL) -> tuple[int, ...]:
        """See `Denoiser`: the codes of each image in one row."""
        return batch, (height // vae.scale_factor) * (width // vae.scale_factor)

    def __call__(self, sample: npt.NDArray[Any], timestep: float, conditioning: Feeds) -> FloatArray:
        """Predict.

        Args:
            sample: Codes, int64 (B, pixels).
            timestep: As the scheduler counts.
            conditioning: See above.

        Returns:
            float32 (B, classes - 1, pixels): logarithms of the probabilities of clean codes.
        """
        feeds = {
            "hidden_states": sample.astype(np.int32),
            "timestep": time_feed(timestep, dtype=np.int32),
            **conditioning,
        }
        output = self._run(feeds, (len(sample), self.out_channels, sample.shape[1]))
        wide = output.astype(np.float64)  # normalized again, as the engine rounds
        wide -= wide.max(axis=1, keepdims=True)
        wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
        return wide.astype(np.float32)
