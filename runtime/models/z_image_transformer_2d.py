"""ZImageTransformer2DModel: the denoiser of Z-Image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import time_feed
from diffoundry.runtime.formats.config_values import Config, integer, integers, number, refuse
from diffoundry.runtime.models.denoiser import PatchTransformer
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.rotary import grid_positions, rotary_angles

__all__ = [
    "PATCH",
    "PATCH_KEY",
    "PENDING",
    "SIDE",
    "TOKEN_MULTIPLE",
    "ZImageLayout",
    "ZImageTransformer2DModel",
    "call_time",
    "pack_latents",
    "padded_captions",
    "position_feeds",
    "read_layout",
    "unpack_latents",
]

PATCH = 2
"""Latents to a side of a token. diffusers: `patch_size` of `ZImageTransformer2DModel.forward`."""

PATCH_KEY = "2-1"
"""Name of the layers for tokens of this size, of one frame."""

SIDE = 128
"""Latents to a side of an image by default. diffusers: `ZImagePipeline.__call__`, 1024 pixels."""

TOKEN_MULTIPLE = 32
"""Captions and images are padded to multiples of so many tokens. diffusers: `SEQ_MULTI_OF`."""

PENDING = TOKEN_MULTIPLE - 1
"""Tokens of padding that every graph appends to an image: those beyond the multiple are hidden."""

_AXES, _LENGTHS = (32, 48, 48), (1024, 512, 512)
_TRAINED = 1000.0
_LARGEST = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class ZImageLayout:
    """The interface of the network, as its config describes it.

    Attributes:
        channels: Of latents.
        width: Of its features.
        text_width: Of a token of the caption.
        axes: Width of the part of a head for each axis of the positions: caption or image, row and column.
        lengths: Number of positions on each axis.
        theta: Base of the rotary frequencies.
    """

    channels: int
    width: int
    text_width: int
    axes: tuple[int, ...]
    lengths: tuple[int, ...]
    theta: float

    @property
    def token(self) -> int:
        """Numbers of a token of the image."""
        return PATCH**2 * self.channels


def read_layout(config: Config, subject: str) -> ZImageLayout:
    """Read config.json with the defaults of diffusers' `ZImageTransformer2DModel`.

    Args:
        config: The config.
        subject: Name of the file in messages.

    Raises:
        ConfigError: A value has another type, is out of range, or does not fit the others.
    """
    patches = integers(config, "all_patch_size", (PATCH,), subject=subject)
    frames = integers(config, "all_f_patch_size", (1,), subject=subject)
    if (PATCH, 1) not in zip(patches, frames, strict=False):
        raise refuse(subject, "all_patch_size", list(patches), f"{PATCH} with an all_f_patch_size of 1")
    width, heads = (integer(config, name, most, subject=subject) for name, most in (("dim", 3840), ("n_heads", 30)))
    axes = integers(config, "axes_dims", _AXES, subject=subject)
    lengths = integers(config, "axes_lens", _LENGTHS, subject=subject)
    if len(axes) != len(_AXES) or sum(axes) * heads != width or any(axis % 2 for axis in axes):
        raise refuse(subject, "axes_dims", list(axes), f"three even numbers that add up to {width // heads}")
    if len(lengths) != len(axes):
        raise refuse(subject, "axes_lens", list(lengths), "three numbers")
    return ZImageLayout(
        channels=integer(config, "in_channels", 16, subject=subject),
        width=width,
        text_width=integer(config, "cap_feat_dim", 2560, subject=subject),
        axes=axes,
        lengths=lengths,
        theta=number(config, "rope_theta", 256.0, subject=subject, minimum=1, maximum=_LARGEST),
    )


def pack_latents(latents: FloatArray) -> FloatArray:
    """Join 2 x 2 latents to a token: (B, C, h, w) to (B, h / 2, w / 2, 4 C), channels last.

    diffusers: `ZImageTransformer2DModel._patchify_image`.
    """
    batch, channels, height, width = latents.shape
    cut = latents.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return cut.transpose(0, 2, 4, 3, 5, 1).reshape(batch, height // PATCH, width // PATCH, channels * PATCH**2)


def unpack_latents(tokens: FloatArray) -> FloatArray:
    """Revert `pack_latents`: (B, rows, columns, 4 C) to (B, C, 2 rows, 2 columns)."""
    batch, rows, columns, _ = tokens.shape
    cut = tokens.reshape(batch, rows, columns, PATCH, PATCH, -1).transpose(0, 5, 1, 3, 2, 4)
    return cut.reshape(batch, -1, rows * PATCH, columns * PATCH)


def padded_captions(captions: list[FloatArray], tokens: int | None = None) -> dict[str, FloatArray]:
    """Return captions as inputs of the network, padded to one number of tokens.

    Args:
        captions: float32 (tokens, D), each with a number of its own.
        tokens: Number of tokens of the inputs, at least that of the longest caption and a multiple of 32; None for the
            least.

    Returns:
        "encoder_hidden_states" float32 (B, S, D). "encoder_attention_mask" (B, S): 1 for a token that the network sees,
        which are those of the caption and of its padding to a multiple of 32. "encoder_token_mask" (B, S): 1 for those
        of the caption; others become the learned token of padding.
    """
    lengths = [len(caption) for caption in captions]
    padded = [-(-length // TOKEN_MULTIPLE) * TOKEN_MULTIPLE for length in lengths]
    total = max(padded) if tokens is None else tokens
    states = np.zeros((len(captions), total, captions[0].shape[-1]), np.float32)
    for row, caption in zip(states, captions, strict=True):
        row[: len(caption)] = caption
    places = np.arange(total)
    seen, own = ((places < np.array(counts)[:, None]).astype(np.float32) for counts in (padded, lengths))
    return {"encoder_hidden_states": states, "encoder_attention_mask": seen, "encoder_token_mask": own}


def position_feeds(
    seen: FloatArray, rows: int, columns: int, axes: Sequence[int], theta: float
) -> dict[str, FloatArray]:
    """Return the inputs for positions: of a caption on the first axis from 1 on, of an image after its caption.

    diffusers: `ZImageTransformer2DModel.patchify_and_embed`, `RopeEmbedder`.

    Args:
        seen: "encoder_attention_mask" of `padded_captions`, (B, S).
        rows: Of tokens of the image.
        columns: Of tokens of the image.
        axes: As in `ZImageLayout`.
        theta: As in `ZImageLayout`.
    """
    first = np.zeros((seen.shape[1], len(axes)))
    first[:, 0] = np.arange(1, seen.shape[1] + 1)
    places = np.stack([grid_positions(float(length) + 1, rows, columns) for length in seen.sum(axis=1)])
    text, image = (rotary_angles(one, axes, theta, rounded=True) for one in (first, places))
    padding = -rows * columns % TOKEN_MULTIPLE
    return {
        "rotary_cos": image[0],
        "rotary_sin": image[1],
        "text_rotary_cos": text[0],
        "text_rotary_sin": text[1],
        "padding_mask": (np.arange(PENDING) < padding).astype(np.float32),
    }


def call_time(timestep: float) -> FloatArray:
    """Return the time that the network takes, (1,), from 0, noise, to 1, for a timestep of the scheduler."""
    return time_feed(timestep, lambda times: (np.float32(_TRAINED) - times) / np.float32(_TRAINED))


class ZImageTransformer2DModel(PatchTransformer):
    """A `Denoiser` over latents (B, C, h, w), packed here to tokens of 2 x 2. diffusers: `ZImageTransformer2DModel`.

    Its conditioning is that of `padded_captions`. Positions are computed here. The network counts time from 0, noise,
    to 1, and predicts the negative velocity.

    Attributes:
        layout: Its interface.
    """

    def __init__(self, session: EngineSession, component: str | None = None) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no denoiser, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session, component)
        self.layout = read_layout(self._config, self._subject)
        self.in_channels = self.out_channels = self.layout.channels
        self.patch_size, self.sample_size = PATCH, (SIDE, SIDE)
        self.first_channels = self.layout.width

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`."""
        tokens = pack_latents(sample)
        rows, columns = tokens.shape[1:3]
        feeds = {
            "hidden_states": tokens,
            "timestep": call_time(timestep),
            **conditioning,
            **position_feeds(
                conditioning["encoder_attention_mask"], rows, columns, self.layout.axes, self.layout.theta
            ),
        }
        return -unpack_latents(self._run(feeds, (len(sample), rows, columns, self.layout.token)))
