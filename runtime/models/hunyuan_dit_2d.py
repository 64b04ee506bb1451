"""HunyuanDiT2DModel: the denoiser of Hunyuan-DiT."""

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import time_feed
from diffoundry.runtime.formats.config_values import flag, integer
from diffoundry.runtime.models.denoiser import PatchTransformer
from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS, perturbed_layers
from diffoundry.runtime.models.protocols import Feeds, FloatArray

__all__ = ["BERT_TOKENS", "SIZE", "T5_TOKENS", "HunyuanDiT2DModel", "position_feeds"]

BERT_TOKENS, T5_TOKENS = 77, 256
"""Tokens of a prompt of each text encoder, for which the network has learned padding."""

SIZE = "image_meta_size"
"""Input for sizes, float32 (B, 6); only of versions below 1.2."""

_BASE = 512 // 8
"""Latents to a side of the images whose positions those of larger ones lie between."""

_THETA = np.float32(10000.0)


def position_feeds(rows: int, columns: int, patch: int, head: int) -> Feeds:
    """Return cosines and sines of the places of patches, float32 (rows, columns, head / 2).

    Patches lie between the positions of an image of 512 pixels, in its middle. The first half of a head has the column
    and the second the row. Angles are products of float32 numbers. diffusers: `get_2d_rotary_pos_embed`,
    `get_resize_crop_region_for_grid`.

    Args:
        rows: Of patches.
        columns: Of patches.
        patch: Latents to a side of one.
        head: Width of a head.
    """
    base = _BASE // patch
    height, width = (base, round(base / rows * columns)) if rows > columns else (round(base / columns * rows), base)
    places = (_places(base, length, count) for length, count in ((height, rows), (width, columns)))
    exponents = np.arange(0, head // 2, 2, dtype=np.float32) / np.float32(head // 2)
    frequencies = np.float32(1.0) / np.power(_THETA, exponents)
    down, across = (np.outer(place, frequencies) for place in places)
    shape = (rows, columns, len(frequencies))
    angles = np.concatenate([np.broadcast_to(across[None], shape), np.broadcast_to(down[:, None], shape)], axis=-1)
    return {"rotary_cos": np.cos(angles), "rotary_sin": np.sin(angles)}


def _places(base: int, length: int, count: int) -> npt.NDArray[np.float32]:
    """Return the places of patches along a side.

    Args:
        base: Places that the longer side has.
        length: Places that this side has.
        count: Patches.
    """
    first = round((base - length) / 2.0)
    return np.linspace(first, (first + length) * (count - 1) / count, count).astype(np.float32)


class HunyuanDiT2DModel(PatchTransformer):
    """diffusers: `HunyuanDiT2DModel`. A variance that it predicts beside the noise is dropped.

    Its conditioning: "encoder_hidden_states" (B, 77, D) of BERT and "encoder_hidden_states_t5" (B, 256, E), their masks
    "text_embedding_mask" and "text_embedding_mask_t5", and sizes where the network takes them. Positions are computed
    here.

    Attributes:
        takes_size: True if it takes sizes.
    """

    def __init__(self, session: EngineSession) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no denoiser, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session)
        config, subject = self._config, self._subject
        self._read_shape(in_channels=4, out_channels=4, sample_size=32, heads=16, head_dim=88)
        self.out_channels = self.in_channels
        self.takes_size = flag(config, "use_style_cond_and_image_meta_size", default=True, subject=subject)
        self._head = integer(config, "attention_head_dim", 88, subject=subject)
        self._predicted = self.in_channels * (2 if flag(config, "learn_sigma", default=True, subject=subject) else 1)

    @property
    def layers(self) -> int:
        """Number of layers; 0 for a network that perturbs none."""
        return perturbed_layers(self._session.inputs(self.component))

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; the timestep is passed as it is."""
        height, width = sample.shape[2:]
        feeds = {
            **({IDENTITY_LAYERS: np.zeros((len(sample), self.layers), np.float32)} if self.layers else {}),
            "hidden_states": sample,
            "timestep": time_feed(timestep),
            **conditioning,
            **position_feeds(height // self.patch_size, width // self.patch_size, self.patch_size, self._head),
        }
        return self._run(feeds, (len(sample), self._predicted, height, width))[:, : self.in_channels]
