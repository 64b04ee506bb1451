"""AuraFlowTransformer2DModel: the denoiser of AuraFlow."""

from math import isqrt

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import time_feed
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.denoiser import PatchTransformer
from diffoundry.runtime.models.protocols import Feeds, FloatArray

__all__ = ["POSITIONS", "AuraFlowTransformer2DModel"]

POSITIONS = 1024
"""Rows of the table of positions, where the config does not say."""

_PIXELS = 1024
"""To a side of an image by default. diffusers: `AuraFlowPipeline.__call__`."""

_TRAINED = 1000.0
"""Timesteps of the training; the network counts from 0 to 1."""


class AuraFlowTransformer2DModel(PatchTransformer):
    """diffusers: `AuraFlowTransformer2DModel`.

    Its conditioning: "encoder_hidden_states" (B, tokens, D). Positions are rows of a learned table, chosen here.

    Attributes:
        positions: Patches to a side of the table.
    """

    def __init__(self, session: EngineSession, pixels: int) -> None:
        """Read the config; the engine is opened when first needed.

        Args:
            session: The engines.
            pixels: Pixels to a side of a latent.

        Raises:
            BundleError: The bundle has no denoiser, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session)
        self._read_shape(in_channels=4, out_channels=4, sample_size=64, heads=12, head_dim=256)
        self.positions = isqrt(integer(self._config, "pos_embed_max_size", POSITIONS, subject=self._subject))
        side = min(_PIXELS // pixels, self.positions * self.patch_size)
        self.sample_size = (side, side)

    def position_ids(self, rows: int, columns: int) -> npt.NDArray[np.int32]:
        """Return rows of the table for the patches (rows, columns) of an image, which lies in its centre.

        diffusers: `AuraFlowPatchEmbed.pe_selection_index_based_on_dim`.
        """
        first, left = (self.positions // 2 - count // 2 for count in (rows, columns))
        places = (first + np.arange(rows))[:, None] * self.positions + (left + np.arange(columns))
        return places.astype(np.int32)

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; the network takes a thousandth of the timestep."""
        places = self.position_ids(*(side // self.patch_size for side in sample.shape[2:]))
        feeds = {
            "hidden_states": sample,
            "timestep": time_feed(timestep, lambda times: times / np.float32(_TRAINED)),
            "position_ids": places,
            **conditioning,
        }
        return self._run(feeds, (len(sample), self.out_channels, *sample.shape[2:]))
