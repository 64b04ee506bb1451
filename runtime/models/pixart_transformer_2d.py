"""PixArtTransformer2DModel: the denoiser of PixArt-Alpha and PixArt-Sigma."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import MAX_SIDE, Config, integer, refuse
from diffoundry.runtime.models.denoiser import PatchTransformer
from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS, perturbed_layers
from diffoundry.runtime.models.protocols import Feeds, FloatArray

__all__ = ["PixArtLayout", "PixArtTransformer2DModel", "read_layout", "sine_table"]

_SIZED = 128
"""`sample_size` of networks that also take the size of the image, where their config does not say."""

_BASE = 64
"""Latents of the first networks, between whose positions those of larger ones lie."""

_PERIOD = 10000.0
"""Longest wavelength of a position's sines. Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PixArtLayout:
    """The interface of the network, as its config describes it.

    Attributes:
        in_channels: Of latents.
        out_channels: Of the prediction: those of latents, or twice as many with a variance.
        channels: Of its features.
        patch_size: Latents to a side of a patch.
        sample_size: Latents to a side of the images that it was trained on.
        scale: Divisor of positions.
        takes_size: True if it also takes resolution and aspect ratio.
    """

    in_channels: int
    out_channels: int
    channels: int
    patch_size: int
    sample_size: int
    scale: float
    takes_size: bool


def read_layout(config: Config, subject: str) -> PixArtLayout:
    """Read config.json with the defaults of diffusers' `PixArtTransformer2DModel`.

    Args:
        config: The config.
        subject: Name of the file in messages.

    Raises:
        ConfigError: A value has another type, or is out of range.
    """
    heads = integer(config, "num_attention_heads", 16, subject=subject)
    given = integer({"out_channels": 8, **config}, "out_channels", None, subject=subject)
    channels, side = (integer(config, name, default, subject=subject) for name, default in _CHANNELS_AND_SIDE)
    sized, scale = config.get("use_additional_conditions"), config.get("interpolation_scale")
    if sized is not None and not isinstance(sized, bool):
        raise refuse(subject, "use_additional_conditions", sized, "true, false or null")
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int | float) or not scale > 0):
        raise refuse(subject, "interpolation_scale", scale, "a number above 0, or null")
    return PixArtLayout(
        in_channels=channels,
        out_channels=channels if given is None else given,
        channels=heads * integer(config, "attention_head_dim", 72, subject=subject),
        patch_size=integer(config, "patch_size", 2, subject=subject, maximum=MAX_SIDE),
        sample_size=side,
        scale=max(side // _BASE, 1) if scale is None else float(scale),
        takes_size=side == _SIZED if sized is None else sized,
    )


_CHANNELS_AND_SIDE = (("in_channels", 4), ("sample_size", _SIZED))


def sine_table(count: int, base: int, scale: float, width: int) -> FloatArray:
    """Return sines and cosines of the positions of `count` patches in a row, float32 (count, width).

    diffusers: `get_2d_sincos_pos_embed`, which has a half for columns and then one for rows.

    Args:
        count: Patches, spread over as many positions as there are in the images of the training.
        base: Patches to a side of these images.
        scale: Divisor of positions.
        width: Numbers of a position, an even number.
    """
    positions = np.arange(count, dtype=np.float32) / np.float32(count / base) / np.float32(scale)
    frequencies: npt.NDArray[np.float64] = 1.0 / _PERIOD ** (np.arange(width // 2, dtype=np.float64) / (width / 2.0))
    angles = np.outer(positions.astype(np.float64), frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


class PixArtTransformer2DModel(PatchTransformer):
    """diffusers: `PixArtTransformer2DModel`.

    Its conditioning: "encoder_hidden_states" (B, tokens, D) and "encoder_attention_mask" (B, tokens), 1 for a token and
    0 for padding. "resolution" (1, 2) and "aspect_ratio" (1, 1) are those of the latents, computed here.

    Attributes:
        layout: Its interface.
        width: D.
        pixels: Pixels to a side of a latent, which the resolution counts.
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
        self.layout = layout = read_layout(self._config, self._subject)
        self.in_channels, self.out_channels = layout.in_channels, layout.out_channels
        self.patch_size, self.first_channels = layout.patch_size, layout.channels
        self.sample_size = (layout.sample_size, layout.sample_size)
        context = "cross_attention_dim" if self._config.get("caption_channels") is None else "caption_channels"
        self.width = integer(self._config, context, layout.channels, subject=self._subject)
        self.pixels = pixels

    @property
    def layers(self) -> int:
        """Number of layers; 0 for a network that perturbs none."""
        return perturbed_layers(self._session.inputs(self.component))

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; the timestep is passed as it is."""
        none = {IDENTITY_LAYERS: np.zeros((len(sample), self.layers), np.float32)} if self.layers else {}
        return super().__call__(sample, timestep, {**self._places(*sample.shape[2:]), **none, **conditioning})

    def _places(self, height: int, width: int) -> Feeds:
        """Return the inputs that follow from the size of latents: positions, resolution and aspect ratio."""
        layout = self.layout
        base = layout.sample_size // layout.patch_size
        rows, columns = (
            sine_table(side // layout.patch_size, base, layout.scale, layout.channels // 2) for side in (height, width)
        )
        sizes = {
            "resolution": np.array([[height * self.pixels, width * self.pixels]], np.float32),
            "aspect_ratio": np.array([[height / width]], np.float32),
        }
        return {"position_rows": rows, "position_columns": columns, **(sizes if layout.takes_size else {})}
