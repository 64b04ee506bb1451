"""Lumina2Transformer2DModel: the denoiser of Lumina-Image 2.0."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import time_feed
from diffoundry.runtime.formats.config_values import MAX_SIDE, Config, integer, integers, refuse
from diffoundry.runtime.models.denoiser import PatchTransformer
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.rotary import grid_positions, rotary_angles

__all__ = ["Lumina2Layout", "Lumina2Transformer2DModel", "position_feeds", "read_layout"]

MASK = "encoder_attention_mask"

_TRAINED = np.float32(1000.0)
"""Timesteps of the training; the network counts from 0, noise, to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lumina2Layout:
    """The interface of the network, as its config describes it.

    Attributes:
        in_channels: Of latents.
        out_channels: Of the prediction.
        width: Of its features.
        text_width: Of a token of the prompt.
        patch_size: Latents to a side of a patch.
        sample_size: Latents to a side of an image by default.
        axes: Width of the part of a head for each axis of the positions: prompt, row and column.
        lengths: Number of positions on each axis.
    """

    in_channels: int
    out_channels: int
    width: int
    text_width: int
    patch_size: int
    sample_size: int
    axes: tuple[int, ...]
    lengths: tuple[int, ...]


def read_layout(config: Config, subject: str) -> Lumina2Layout:
    """Read config.json with the defaults of diffusers' `Lumina2Transformer2DModel`.

    Args:
        config: The config.
        subject: Name of the file in messages.

    Raises:
        ConfigError: A value has another type, is out of range, or does not fit the others.
    """
    channels = integer(config, "in_channels", 16, subject=subject)
    width = integer(config, "hidden_size", 2304, subject=subject)
    head = width // integer(config, "num_attention_heads", 24, subject=subject)
    axes, lengths = (
        integers(config, name, default, subject=subject)
        for name, default in (("axes_dim_rope", (32, 32, 32)), ("axes_lens", (300, 512, 512)))
    )
    if len(axes) != 3 or sum(axes) != head or any(part % 2 for part in axes):
        raise refuse(subject, "axes_dim_rope", list(axes), f"three even numbers that add up to {head}")
    if len(lengths) != len(axes):
        raise refuse(subject, "axes_lens", list(lengths), "three numbers")
    return Lumina2Layout(
        in_channels=channels,
        out_channels=integer(config, "out_channels", None, subject=subject) or channels,
        width=width,
        text_width=integer(config, "cap_feat_dim", 1024, subject=subject),
        patch_size=integer(config, "patch_size", 2, subject=subject, maximum=MAX_SIDE),
        sample_size=integer(config, "sample_size", 128, subject=subject),
        axes=axes,
        lengths=lengths,
    )


def position_feeds(mask: npt.NDArray[np.float32], rows: int, columns: int, layout: Lumina2Layout) -> Feeds:
    """Return the inputs for positions. diffusers: `Lumina2RotaryPosEmbed.forward`.

    Tokens of a prompt are counted on the first axis. Patches of its image have the next place there, and a row and a
    column.

    Args:
        mask: Of the prompts, (B, tokens), 1 for a token and 0 for padding.
        rows: Of patches.
        columns: Of patches.
        layout: Interface of the network.
    """
    lengths = mask.sum(axis=1)
    images = np.stack([grid_positions(float(length), rows, columns) for length in lengths])
    text = np.zeros((mask.shape[1], len(layout.axes)))
    text[:, 0] = np.arange(mask.shape[1])
    cos, sin = rotary_angles(images, layout.axes)
    text_cos, text_sin = rotary_angles(text, layout.axes)
    return {"rotary_cos": cos, "rotary_sin": sin, "text_rotary_cos": text_cos, "text_rotary_sin": text_sin}


class Lumina2Transformer2DModel(PatchTransformer):
    """A `Denoiser` over latents (B, C, h, w). diffusers: `Lumina2Transformer2DModel`.

    Its conditioning: "encoder_hidden_states" (B, tokens, D) and "encoder_attention_mask" (B, tokens), 1 for a token and
    0 for padding. Positions are computed here. The network predicts the negative velocity.

    Attributes:
        layout: Its interface.
    """

    def __init__(self, session: EngineSession) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no denoiser, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session)
        self.layout = layout = read_layout(self._config, self._subject)
        self.in_channels, self.out_channels = layout.in_channels, layout.out_channels
        self.patch_size, self.first_channels = layout.patch_size, layout.width
        self.sample_size = (layout.sample_size, layout.sample_size)

    def image_tokens(self, shape: tuple[int, ...]) -> int | None:
        """See `Denoiser`: the channels, which diffusers' `Lumina2Pipeline` takes for the number of tokens."""
        return shape[1]

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`."""
        rows, columns = (side // self.patch_size for side in sample.shape[2:])
        feeds = {
            "hidden_states": sample,
            "timestep": time_feed(timestep, lambda times: 1 - times / _TRAINED),
            **conditioning,
            **position_feeds(conditioning[MASK], rows, columns, self.layout),
        }
        return -self._run(feeds, (len(sample), self.out_channels, *sample.shape[2:]))
