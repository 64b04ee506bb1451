"""QwenImage21Transformer2DModel: the denoiser of Qwen-Image 2.1, whose text and other images do not see the result."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import time_feed
from diffoundry.runtime.formats.config_values import Config, flag, integer, refuse
from diffoundry.runtime.models.flux_transformer_2d import ReferenceTransformer, read_axes
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.qwen_image_transformer_2d import centered_positions
from diffoundry.runtime.models.reference_tokens import STATES, read_grids
from diffoundry.runtime.models.rotary import rotary_angles

__all__ = [
    "SIDE",
    "SLOT",
    "STARTS",
    "QwenImage21Layout",
    "QwenImage21Transformer2DModel",
    "read_layout",
    "sequence_tables",
]

SIDE = 64
"""Latents to a side of an image by default. diffusers: `output_resolution` of `QwenImage21Pipeline`."""

SLOT = 2
"""Latents to a side of a token of the language model."""

STARTS = "reference_starts"
"""Name in the conditioning for the number of tokens of the text before each other image, (B, images)."""

_AXES = (16, 56, 56)
_TRAINED = 1000.0
"""Timesteps of the training; the network counts from 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QwenImage21Layout:
    """The interface of the network, as its config describes it.

    Attributes:
        in_channels: Of a token, which is one latent.
        channels: Of its features.
        width: Of a token of the text.
        axes: Width of the part of a head for each axis of the positions: text or image, row and column.
    """

    in_channels: int
    channels: int
    width: int
    axes: tuple[int, ...]


class SequenceTables(NamedTuple):
    """Positions of the tokens before the result, and what they see.

    Attributes:
        text: Positions (tokens, 3) of the text.
        images: Positions (tokens, 3) of other images, one after another.
        text_order: Place of each token of the text in the sequence, (tokens,).
        image_order: The same of other images.
        image_last: Place of the last token of the image that each token belongs to. A token sees what comes before it,
            and its own image.
        following: Position of a token after each number of tokens of the text, (tokens + 1,).
    """

    text: npt.NDArray[np.float64]
    images: npt.NDArray[np.float64]
    text_order: FloatArray
    image_order: FloatArray
    image_last: FloatArray
    following: npt.NDArray[np.float64]


def read_layout(config: Config, subject: str) -> QwenImage21Layout:
    """Read config.json with the defaults of diffusers' `QwenImage21Transformer2DModel`.

    Args:
        config: The config.
        subject: Name of the file in messages.

    Raises:
        ConfigError: A value has another type, is out of range, or is of a network that is not supported.
    """
    patch = integer(config, "patch_size", 1, subject=subject)
    if patch != 1:
        raise refuse(subject, "patch_size", patch, "1, as the pipeline of diffusers passes latents")
    if not flag(config, "causal_condition", default=True, subject=subject):
        raise refuse(subject, "causal_condition", False, "true: no other network of this class is supported")
    into = integer(config, "in_channels", 64, subject=subject)
    out = integer({"out_channels": 64, **config}, "out_channels", None, subject=subject) or into
    if out != into:
        raise refuse(subject, "out_channels", out, f"{into}, the in_channels")
    axes = read_axes(config, _AXES, subject)
    return QwenImage21Layout(
        in_channels=into,
        channels=sum(axes) * integer(config, "num_attention_heads", 32, subject=subject),
        width=integer(config, "context_in_dim", 4096, subject=subject),
        axes=axes,
    )


def sequence_tables(tokens: int, starts: Sequence[int], grids: Sequence[tuple[int, ...]]) -> SequenceTables:
    """Return positions of a text with images in it, and what their tokens see.

    Tokens of a text are counted on all axes. An image stands at one place of the first axis, with its middle at zero on
    the others, and takes as many places as its longer side. diffusers: `QwenImage21Rope`.

    Args:
        tokens: Of the text, without those of images.
        starts: Number of tokens of the text before each image.
        grids: Rows and columns of each image.
    """
    following = np.arange(tokens + 1, dtype=np.float64)
    text_order = np.arange(tokens, dtype=np.float32)
    places = [np.zeros((0, len(_AXES)))]
    order, last = ([np.zeros(0, np.int64)] for _ in range(2))
    seen = 0
    for start, (rows, columns) in zip(starts, grids, strict=True):
        places.append(centered_positions(0, rows, columns).reshape(-1, len(_AXES)))
        places[-1][:, 0] = following[start]
        order.append(start + seen + np.arange(rows * columns))
        last.append(np.full(rows * columns, start + seen + rows * columns - 1))
        seen += rows * columns
        text_order[start:] += rows * columns
        following[start:] += max(rows, columns)
    return SequenceTables(
        np.repeat(following[:-1, None], len(_AXES), axis=1),
        np.concatenate(places),
        text_order,
        np.concatenate(order).astype(np.float32),
        np.concatenate(last).astype(np.float32),
        following,
    )


class QwenImage21Transformer2DModel(ReferenceTransformer):
    """A `Denoiser` over latents (B, C, h, w), each of which is a token. diffusers: `QwenImage21Transformer2DModel`.

    Its conditioning: "encoder_hidden_states" (B, tokens, D) and "encoder_hidden_states_mask" (B, tokens), 1 for a token
    and 0 for padding. Of a call with other images their `reference_feeds`, and `STARTS`. Rotary positions are computed
    here, once for all steps of a call: those of the result follow the tokens of its own text, not its padding.

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
        self.layout: QwenImage21Layout = read_layout(self._config, self._subject)
        self.in_channels = self.out_channels = self.layout.in_channels
        self.sample_size, self.patch_size = (SIDE, SIDE), SLOT
        self.first_channels = self.layout.channels

    def image_tokens(self, shape: tuple[int, ...]) -> int:
        """See `Denoiser`: one for each latent, though sides are even."""
        return shape[2] * shape[3]

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; the network takes a thousandth of the timestep."""
        if STATES not in conditioning and self.reference_limit != 0:
            conditioning = {**conditioning, **self.reference_feeds((), len(sample))}
        tokens, axes = sample.transpose(0, 2, 3, 1), self.layout.axes
        states, mask = (conditioning[f"encoder_hidden_states{end}"] for end in ("", "_mask"))
        grids = read_grids(conditioning)
        starts = tuple(conditioning[STARTS][0].astype(int).tolist()) if grids else ()
        tables, known = _sequence_feeds(states.shape[1], starts, grids, axes)
        counts = np.rint(mask.sum(axis=1)).astype(int)
        cos, sin = _result_angles(tuple(tables.following[counts].tolist()), *tokens.shape[1:3], axes)
        feeds = {
            "hidden_states": np.ascontiguousarray(tokens),
            "timestep": time_feed(timestep, lambda times: times / np.float32(_TRAINED)),
            "encoder_hidden_states": states,
            "encoder_hidden_states_mask": mask,
            "rotary_cos": cos,
            "rotary_sin": sin,
            **{name: known[name] for name in known if not name.startswith("reference_") or STATES in conditioning},
        }
        if STATES in conditioning:
            feeds[STATES] = conditioning[STATES]
        return np.ascontiguousarray(self._run(feeds, tokens.shape).transpose(0, 3, 1, 2))


@lru_cache(maxsize=4)
def _sequence_feeds(
    tokens: int, starts: tuple[int, ...], grids: tuple[tuple[int, int], ...], axes: tuple[int, ...]
) -> tuple[SequenceTables, dict[str, FloatArray]]:
    """Return `sequence_tables`, and the inputs of the network that follow from them, the same for every step."""
    tables = sequence_tables(tokens, starts, grids)
    text, images = (rotary_angles(places, axes, dtype=np.float32) for places in (tables.text, tables.images))
    return tables, {
        "text_cos": text[0],
        "text_sin": text[1],
        "text_order": tables.text_order,
        "reference_cos": images[0],
        "reference_sin": images[1],
        "reference_order": tables.image_order,
        "reference_last": tables.image_last,
    }


@lru_cache(maxsize=4)
def _result_angles(
    firsts: tuple[float, ...], rows: int, columns: int, axes: tuple[int, ...]
) -> tuple[FloatArray, FloatArray]:
    """Return cosines and sines (B, rows, columns, half a head) of results.

    Args:
        firsts: Position of each on the first axis, after the tokens of its own text.
        rows: Latents to a column.
        columns: Latents to a row.
        axes: As `QwenImage21Layout.axes`.
    """
    places = np.stack([centered_positions(0, rows, columns)] * len(firsts))
    places[..., 0] = np.array(firsts)[:, None, None]
    return rotary_angles(places, axes, dtype=np.float32)
