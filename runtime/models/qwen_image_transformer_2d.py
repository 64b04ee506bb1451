"""QwenImageTransformer2DModel: the denoiser of Qwen-Image, and of images in layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import time_feed
from diffoundry.runtime.formats.config_values import Config, flag, integer, integers, refuse
from diffoundry.runtime.models.flux_transformer_2d import PATCH, ReferenceTransformer, pack_latents, unpack_latents
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.reference_tokens import STATES, network_feeds, read_grids
from diffoundry.runtime.models.rotary import grid_positions, rotary_angles

__all__ = [
    "LAYERED_SIDE",
    "LAYERS",
    "QwenImageLayeredTransformer2DModel",
    "QwenImageLayout",
    "QwenImageTransformer2DModel",
    "centered_positions",
    "read_layout",
    "text_positions",
    "token_feeds",
]

LAYERS = 4
"""Default of diffusers for `layers`."""

LAYERED_SIDE = 640
"""Default of diffusers for `resolution`: the side of a square with as many pixels as a layer."""

_AXES = (16, 56, 56)
_TRAINED = 1000.0
"""Timesteps of the training; the network counts from 0 to 1."""

Angles = tuple[FloatArray, FloatArray]
"""Cosines and sines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QwenImageLayout:
    """The interface of the network, as its config describes it.

    Attributes:
        in_channels: Of a token: those of 2 x 2 latents.
        out_channels: Of a predicted token.
        channels: Of its features.
        width: Of a token of the text.
        axes: Width of the part of a head for each axis of the positions: image, row and column.
    """

    in_channels: int
    out_channels: int
    channels: int
    width: int
    axes: tuple[int, ...]


def read_layout(config: Config, subject: str, *, layered: bool = False) -> QwenImageLayout:
    """Read config.json with the defaults of diffusers' `QwenImageTransformer2DModel`.

    Args:
        config: The config.
        subject: Name of the file in messages.
        layered: True for the network of images in layers.

    Raises:
        ConfigError: A value has another type, is out of range, or is of a network that is not supported.
    """
    patch = integer(config, "patch_size", PATCH, subject=subject)
    if patch != PATCH:
        raise refuse(subject, "patch_size", patch, f"{PATCH}, as the pipelines of diffusers pack latents")
    # diffusers' own network fails with the first. The others are those of images in layers.
    expected = {"guidance_embeds": False, "use_additional_t_cond": layered, "use_layer3d_rope": layered}
    for name, right in expected.items():
        if (found := flag(config, name, default=False, subject=subject)) != right:
            raise refuse(subject, name, found, f"{str(right).lower()}: no other network of this class is supported")
    into = integer(config, "in_channels", 64, subject=subject)
    out = integer({"out_channels": 16, **config}, "out_channels", None, subject=subject) or into
    head = integer(config, "attention_head_dim", 128, subject=subject)
    axes = integers(config, "axes_dims_rope", _AXES, subject=subject)
    if len(axes) != len(_AXES) or sum(axes) != head or any(width % 2 for width in axes):
        raise refuse(subject, "axes_dims_rope", list(axes), f"three even numbers that add up to {head}")
    return QwenImageLayout(
        in_channels=into,
        out_channels=PATCH**2 * out,
        channels=head * integer(config, "num_attention_heads", 24, subject=subject),
        width=integer(config, "joint_attention_dim", 3584, subject=subject),
        axes=axes,
    )


def centered_positions(image: int, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Return positions (rows, columns, 3) of an image whose middle is at zero.

    diffusers: `QwenEmbedRope` with `scale_rope`.

    Args:
        image: Position on the first axis: 0 for the result, and one more for each further image.
        rows: Tokens to a column.
        columns: Tokens to a row.
    """
    return grid_positions(image, rows, columns) - [0, rows - rows // 2, columns - columns // 2]


def text_positions(grids: Sequence[tuple[int, ...]], tokens: int) -> npt.NDArray[np.float64]:
    """Return positions (tokens, 3) of a text, alike on each axis, which follow those of all images.

    Args:
        grids: Rows and columns of each image.
        tokens: Number of tokens.
    """
    return _row(_first(grids), tokens)


def _first(grids: Sequence[tuple[int, ...]]) -> int:
    """Return the position of the first token of a text."""
    return max(side // 2 for grid in grids for side in grid)


def _row(first: int, tokens: int) -> npt.NDArray[np.float64]:
    return np.repeat(first + np.arange(tokens, dtype=np.float64)[:, None], len(_AXES), axis=1)


def token_feeds(
    sample: FloatArray, timestep: float, axes: Sequence[int], length: int, others: Sequence[tuple[int, ...]] = ()
) -> dict[str, FloatArray]:
    """Return the inputs of a network for the tokens of latents, and the angles of those of the text.

    Args:
        sample: float32 (B, C, h, w).
        timestep: As the scheduler counts; the network takes a thousandth of it.
        axes: As `QwenImageLayout.axes`.
        length: Tokens of the text.
        others: Rows and columns of other images.
    """
    tokens = pack_latents(sample)
    rows, columns = tokens.shape[1:3]
    text = _text_angles(_first([(rows, columns), *others]), length, tuple(axes))
    return _feeds(tokens, timestep, _image_angles(((0, rows, columns),), tuple(axes)), text)


def _feeds(tokens: FloatArray, timestep: float, image: Angles, text: Angles) -> dict[str, FloatArray]:
    """Return the inputs of a network for tokens, with the angles of their places and of those of the text."""
    cos, sin = (table.reshape(*tokens.shape[1:3], -1) for table in image)
    return {
        "hidden_states": tokens,
        "timestep": time_feed(timestep, lambda times: times / np.float32(_TRAINED)),
        "rotary_cos": cos,
        "rotary_sin": sin,
        "text_cos": text[0],
        "text_sin": text[1],
    }


@lru_cache(maxsize=8)
def _image_angles(places: tuple[tuple[int, int, int], ...], axes: tuple[int, ...]) -> Angles:
    """Return cosines and sines (tokens, half a head) of images one after another, the same for every step.

    Args:
        places: Position on the first axis, rows and columns of each image.
        axes: As `QwenImageLayout.axes`.
    """
    grids = [np.zeros((0, len(_AXES))), *(centered_positions(*place).reshape(-1, len(_AXES)) for place in places)]
    return rotary_angles(np.concatenate(grids), axes, dtype=np.float32)


@lru_cache(maxsize=8)
def _text_angles(first: int, tokens: int, axes: tuple[int, ...]) -> Angles:
    return rotary_angles(_row(first, tokens), axes, dtype=np.float32)


class QwenImageTransformer2DModel(ReferenceTransformer):
    """A `Denoiser` over latents (B, C, h, w), packed here to tokens of 2 x 2. diffusers: `QwenImageTransformer2DModel`.

    Qwen team 2025, https://arxiv.org/abs/2508.02324.

    Its conditioning: "encoder_hidden_states" (B, tokens, D) and "encoder_hidden_states_mask" (B, tokens), 1 for a token
    and 0 for padding, and of a network that sees other images their `reference_feeds`. Angles of rotary positions are
    computed here, once for all steps of a size.

    Attributes:
        layout: Its interface.
        layered: As in `read_layout`.
    """

    layered: ClassVar[bool] = False

    def __init__(self, session: EngineSession) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no denoiser, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session)
        self.layout: QwenImageLayout = read_layout(self._config, self._subject, layered=self.layered)
        self._set_packed(self.layout.in_channels, self.layout.out_channels, self.layout.channels)

    def _reference_tokens(self, image: FloatArray) -> FloatArray:
        """Return the tokens of latents."""
        return pack_latents(image)

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; the network takes a thousandth of the timestep."""
        if STATES not in conditioning and self.reference_limit != 0:
            conditioning = {**conditioning, **self.reference_feeds((), len(sample))}
        grids = read_grids(conditioning)
        feeds = self._token_feeds(sample, timestep, conditioning["encoder_hidden_states"].shape[1], grids)
        feeds |= network_feeds(conditioning)
        if STATES in feeds:
            places = tuple((self._reference_position(index), *grid) for index, grid in enumerate(grids, 1))
            cos, sin = _image_angles(places, self.layout.axes)
            feeds |= {"reference_cos": cos, "reference_sin": sin}
        shape = (*feeds["hidden_states"].shape[:3], self.layout.out_channels)
        return unpack_latents(self._run(feeds, shape))

    def _token_feeds(
        self, sample: FloatArray, timestep: float, length: int, others: Sequence[tuple[int, ...]]
    ) -> dict[str, FloatArray]:
        """See `token_feeds`."""
        return token_feeds(sample, timestep, self.layout.axes, length, others)

    def _reference_position(self, index: int) -> int:
        """Return the position of another image on the first axis; `index` counts from 1."""
        return index


class QwenImageLayeredTransformer2DModel(QwenImageTransformer2DModel):
    """The same for an image in layers, whose latents (B, C, n h, w) lie below one another, and the image beside them.

    diffusers: `QwenImageTransformer2DModel` with `use_layer3d_rope`.
    """

    layered: ClassVar[bool] = True

    def _token_feeds(
        self, sample: FloatArray, timestep: float, length: int, others: Sequence[tuple[int, ...]]
    ) -> dict[str, FloatArray]:
        """See `token_feeds`. Each layer has a position on the first axis. diffusers: `QwenEmbedLayer3DRope`."""
        tokens, (rows, columns) = pack_latents(sample), others[0]
        count = tokens.shape[1] // rows
        image = _image_angles(tuple((index, rows, columns) for index in range(count)), self.layout.axes)
        text = _text_angles(max(rows // 2, columns // 2, count), length, self.layout.axes)
        return _feeds(tokens, timestep, image, text)

    def _reference_position(self, index: int) -> int:  # noqa: ARG002  # there is one image
        """Return the position of the image on the first axis, before all layers."""
        return -1
