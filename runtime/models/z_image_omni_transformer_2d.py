"""ZImageTransformer2DModel of Z-Image Omni: the denoiser sees several images, clean and noisy, and their features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.rotary import grid_positions, rotary_angles
from diffoundry.runtime.models.z_image_transformer_2d import (
    PATCH,
    PENDING,
    TOKEN_MULTIPLE,
    ZImageLayout,
    ZImageTransformer2DModel,
    call_time,
    pack_latents,
    unpack_latents,
)

__all__ = [
    "ImageGrid",
    "OmniFeeds",
    "ZImageOmniTransformer2DModel",
    "feature_feeds",
    "latent_feeds",
    "padded_tokens",
    "patch_features",
]

_BETWEEN = 2
"""Positions between two parts of a text: that of an image's latents, and that of its features."""

Places = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ImageGrid:
    """Sizes of an image that the denoiser sees.

    Attributes:
        rows: Of tokens of 2 x 2 latents.
        columns: Of these tokens.
        feature_rows: Of patches of the image encoder.
        feature_columns: Of these patches.
    """

    rows: int
    columns: int
    feature_rows: int
    feature_columns: int


@dataclass(frozen=True, slots=True)
class OmniFeeds:
    """Makes the inputs of the network for texts and images. diffusers: `patchify_and_embed_omni`.

    Attributes:
        axes: As in `ZImageLayout`.
        theta: As in `ZImageLayout`.
        grids: Sizes of the images that every row sees.
        rows: Of tokens of the result.
        columns: Of tokens of the result.
    """

    axes: Sequence[int]
    theta: float
    grids: Sequence[ImageGrid]
    rows: int
    columns: int

    def text_feeds(self, texts: Sequence[Sequence[FloatArray]], tokens: int | None = None) -> dict[str, FloatArray]:
        """Return the inputs for texts, and for the positions of images, which follow from the lengths of texts.

        Args:
            texts: Hidden states (tokens, D) of the parts of each text; an image lies between two parts.
            tokens: Number of tokens of the inputs; None for the least.

        Returns:
            "encoder_hidden_states" float32 (B, S, D); "encoder_attention_mask", "encoder_token_mask" and
            "encoder_noise_mask" (B, S): 1 for a token that the network sees, for one of a text, which padding is not,
            and for one that is modulated as noisy latents are; "text_rotary_*" (B, S, half a head); "rotary_*" (B,
            rows, columns, half a head); "reference_*" (B, R, half a head) and "feature_*" (B, F, half a head).
        """
        lengths = [[len(part) for part in parts] for parts in texts]
        total = max(map(padded_tokens, lengths)) if tokens is None else tokens
        size = len(texts), total
        states = np.zeros((*size, texts[0][0].shape[-1]), np.float32)
        seen, own, noisy = (np.zeros(size, np.float32) for _ in range(3))
        places, ends = np.zeros((*size, len(self.axes))), []
        for row, parts in enumerate(texts):
            first = 0
            for index, part in enumerate(parts):
                states[row, first : first + len(part)] = part
                own[row, first : first + len(part)] = 1.0
                last = first + _padded(len(part))
                noisy[row, first:last] = float(index >= len(self.grids))
                first = last
            seen[row, :first] = 1.0
            found, end = _text_places(lengths[row], len(self.axes))
            places[row, :first] = found
            ends.append(end)
        image = np.stack([grid_positions(end[len(self.grids)], self.rows, self.columns) for end in ends])
        reference = np.stack([self._reference_places(end) for end in ends])
        feature = np.stack([self._feature_places(end) for end in ends])
        tables = {"text_rotary": places, "rotary": image, "reference": reference, "feature": feature}
        angles = {name: rotary_angles(one, self.axes, self.theta, rounded=True) for name, one in tables.items()}
        return {
            "encoder_hidden_states": states,
            "encoder_attention_mask": seen,
            "encoder_token_mask": own,
            "encoder_noise_mask": noisy,
            **{f"{name}_cos": cos for name, (cos, _) in angles.items()},
            **{f"{name}_sin": sin for name, (_, sin) in angles.items()},
        }

    def _reference_places(self, ends: Sequence[int]) -> Places:
        """Return positions (R, 3) of tokens of images and of their padding, which is at the origin."""
        places = [np.zeros((0, len(self.axes)))]
        for end, grid in zip(ends, self.grids, strict=False):
            places.append(_padded_places(grid_positions(end, grid.rows, grid.columns)))
        return np.concatenate(places)

    def _feature_places(self, ends: Sequence[int]) -> Places:
        """Return positions (F, 3) of features: those of the latents that they lie on, rounded down."""
        places = []
        for end, grid in zip(ends, self.grids, strict=False):
            own = grid_positions(end + 1, grid.feature_rows, grid.feature_columns)
            # In numbers of latents, where positions of tokens are in tokens, as in diffusers.
            for axis, (patches, tokens) in enumerate(
                ((grid.feature_rows, grid.rows), (grid.feature_columns, grid.columns)), start=1
            ):
                scaled = (
                    own[..., axis].astype(np.float32) / np.float32(max(patches - 1, 1)) * np.float32(2 * tokens - 1)
                )
                own[..., axis] = scaled.astype(np.int32)
            places.append(_padded_places(own))
        return np.concatenate([*places, np.zeros((TOKEN_MULTIPLE, len(self.axes)))])


def latent_feeds(images: Sequence[FloatArray], batch: int, channels: int) -> dict[str, FloatArray]:
    """Return the inputs for the latents of images.

    Args:
        images: Latents of each, (1, C, h, w).
        batch: Rows of the inputs, all of which see every image.
        channels: C.

    Returns:
        "reference_hidden_states" float32 (B, R, 4 C): the tokens of each image, padded to a multiple of 32.
        "reference_token_mask" (B, R): 1 for a token of an image.
    """
    width = channels * PATCH**2
    states, own = _join_padded([pack_latents(image).reshape(-1, width) for image in images], width)
    return _repeated({"reference_hidden_states": states, "reference_token_mask": own}, batch)


def feature_feeds(images: Sequence[FloatArray], batch: int, width: int) -> dict[str, FloatArray]:
    """Return the inputs for features of images.

    Args:
        images: Those of each, (patches, width).
        batch: As in `latent_feeds`.
        width: As said.

    Returns:
        "feature_hidden_states" float32 (B, F, width): those of each image, padded to a multiple of 32, and 32 tokens of
        padding for the result, which has none. "feature_token_mask", "feature_attention_mask" and "feature_noise_mask"
        (B, F): as those of texts. Without images all are hidden.
    """
    states, own = _join_padded(images, width)
    states = np.pad(states, ((0, TOKEN_MULTIPLE), (0, 0)))
    own = np.pad(own, (0, TOKEN_MULTIPLE))
    noisy = np.zeros_like(own)
    noisy[-TOKEN_MULTIPLE:] = 1.0
    seen = np.full_like(own, float(len(images) > 0))
    feeds = {"feature_hidden_states": states, "feature_token_mask": own}
    return _repeated({**feeds, "feature_attention_mask": seen, "feature_noise_mask": noisy}, batch)


def padded_tokens(lengths: Sequence[int]) -> int:
    """Return the number of tokens of a text, whose parts are each padded to a multiple of 32."""
    return sum(map(_padded, lengths))


def patch_features(features: FloatArray) -> FloatArray:
    """Return features (rows, columns, D) as tokens (rows * columns, D), as diffusers orders their numbers.

    `patchify_and_embed_omni` moves the channels to the front before it joins rows and columns, so that a token has
    numbers of several patches.
    """
    rows, columns, width = features.shape
    return np.ascontiguousarray(features.transpose(2, 0, 1)).reshape(rows * columns, width)


def _text_places(lengths: Sequence[int], axes: int) -> tuple[Places, list[int]]:
    """Return positions (tokens, axes) of the parts of a text, and that after each part.

    diffusers: `_pad_with_ids` gives a part positions for its padding and then again as many at the origin, so that
    those of the next part come too late, and those beyond all tokens are cut off.
    """
    places, ends, first = [], [], 1
    for length in lengths:
        padded = _padded(length)
        own = np.zeros((2 * padded - length, axes))
        own[:padded, 0] = np.arange(first, first + padded)
        places.append(own)
        ends.append(first + length)
        first += length + _BETWEEN
    return np.concatenate(places)[: padded_tokens(lengths)], ends


def _padded(length: int) -> int:
    return -(-length // TOKEN_MULTIPLE) * TOKEN_MULTIPLE


def _padded_places(grid: Places) -> Places:
    flat = grid.reshape(-1, grid.shape[-1])
    return np.pad(flat, ((0, _padded(len(flat)) - len(flat)), (0, 0)))


def _join_padded(parts: Sequence[FloatArray], width: int) -> tuple[FloatArray, FloatArray]:
    """Return tokens of several images, each padded to a multiple of 32, and 1 for each that is no padding."""
    rooms = [_padded(len(part)) - len(part) for part in parts]
    states = [np.pad(part, ((0, room), (0, 0))) for part, room in zip(parts, rooms, strict=True)]
    masks = [np.pad(np.ones(len(part), np.float32), (0, room)) for part, room in zip(parts, rooms, strict=True)]
    joined = np.concatenate([np.zeros((0, width), np.float32), *states]).astype(np.float32)
    return joined, np.concatenate([np.zeros(0, np.float32), *masks])


def _repeated(feeds: dict[str, FloatArray], batch: int) -> dict[str, FloatArray]:
    return {name: np.repeat(array[None], batch, axis=0) for name, array in feeds.items()}


class ZImageOmniTransformer2DModel(ZImageTransformer2DModel):
    """A `Denoiser` over latents, which also sees other images. diffusers: `ZImageTransformer2DModel`, omni mode.

    Its conditioning is that of `OmniFeeds`; that of images may lack where there are none.
    """

    layout: ZImageLayout

    @property
    def takes_images(self) -> bool:
        """True if the engine takes other images: one of a fixed size takes none."""
        return any(spec.name == "reference_cos" for spec in self._session.inputs(self.component))

    def reference_feeds(self, images: Sequence[FloatArray], batch: int) -> dict[str, FloatArray]:
        """Return the inputs for latents of images; see `latent_feeds`."""
        return latent_feeds(images, batch, self.in_channels)

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`."""
        tokens = pack_latents(sample)
        rows, columns = tokens.shape[1:3]
        padding = -rows * columns % TOKEN_MULTIPLE
        feeds = {
            "hidden_states": tokens,
            "timestep": call_time(timestep),
            "padding_mask": (np.arange(PENDING) < padding).astype(np.float32),
            **conditioning,
        }
        known = {spec.name for spec in self._session.inputs(self.component)}
        taken = {name: feed for name, feed in feeds.items() if name in known or not name.startswith("reference_")}
        return -unpack_latents(self._run(taken, (len(sample), rows, columns, self.layout.token)))
