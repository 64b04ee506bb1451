"""Image encoder of Qwen 3 VL: an image to tokens of its language model, and to features for the first layers of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import Config, integer, integers, refuse
from diffoundry.runtime.models.qwen_vision import ImageTokens, PatchVisionEncoder, cut_patches, patch_places
from diffoundry.runtime.models.rotary import rotary_angles

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "CORNERS",
    "Qwen3VisionEncoder",
    "Qwen3VisionLayout",
    "deepstack_name",
    "deepstack_names",
    "grid_corners",
    "read_vision_layout",
]

CORNERS = 4
"""Learned positions between which that of a patch lies."""

_INDEXES = (8, 16, 24)


@dataclass(frozen=True, kw_only=True, slots=True)
class Qwen3VisionLayout:
    """The interface of the network, as its config describes it.

    Attributes:
        patch: Pixels to a side of a patch.
        merge: Patches to a side of a token.
        frames: Times that an image is repeated, as the frames of a video.
        head: Width of a head.
        side: Learned positions to a side of their grid.
        patch_values: Values of a patch.
        out_width: Of a token.
        deep: Number of further features of a token.
    """

    patch: int
    merge: int
    frames: int
    head: int
    side: int
    patch_values: int
    out_width: int
    deep: int


def deepstack_name(index: int) -> str:
    """Return the name of the features that the language model sees after a layer, counted from 0."""
    return f"deepstack_embeds.{index}"


def deepstack_names(config: Config, subject: str) -> tuple[str, ...]:
    """Return the names of all such features, none for a model without them.

    Args:
        config: Config of the language model with its image encoder.
        subject: Name of the file in messages.

    Raises:
        ConfigError: A value has another type.
    """
    if config.get("model_type") != "qwen3_vl":
        return ()
    vision = config.get("vision_config")
    return tuple(map(deepstack_name, range(len(_indexes(vision if isinstance(vision, dict) else {}, subject)))))


def _indexes(vision: Config, subject: str) -> tuple[int, ...]:
    if vision.get("deepstack_visual_indexes") == []:
        return ()
    return integers(vision, "deepstack_visual_indexes", _INDEXES, subject=subject, minimum=0)


def read_vision_layout(config: Config, subject: str) -> Qwen3VisionLayout:
    """Read the part `vision_config` of config.json with the defaults of transformers' `Qwen3VLVisionConfig`.

    Args:
        config: The config.
        subject: Name of the file in messages.

    Raises:
        ConfigError: A value has another type, is out of range, or does not fit the others.
    """
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        raise refuse(subject, "vision_config", vision, "an object: a pipeline that sees images needs the image encoder")
    patch, merge, frames, width, heads, out, channels, places = (
        integer(vision, name, default, subject=subject)
        for name, default in (
            ("patch_size", 16), ("spatial_merge_size", 2), ("temporal_patch_size", 2), ("hidden_size", 1152),
            ("num_heads", 16), ("out_hidden_size", 3584), ("in_channels", 3), ("num_position_embeddings", 2304),
        )
    )  # fmt: skip
    if width % (4 * heads):
        raise refuse(subject, "hidden_size", width, f"a multiple of {4 * heads}, four for each head")
    return Qwen3VisionLayout(
        patch=patch,
        merge=merge,
        frames=frames,
        head=width // heads,
        side=int(places**0.5),
        patch_values=channels * frames * patch**2,
        out_width=out,
        deep=len(_indexes(vision, subject)),
    )


class Qwen3VisionEncoder(PatchVisionEncoder[Qwen3VisionLayout]):
    """The image encoder of Qwen 3 VL. transformers: `Qwen3VLVisionModel`."""

    def __init__(self, session: EngineSession) -> None:
        """See `PatchVisionEncoder`."""
        super().__init__(session, read_vision_layout)

    def __call__(self, image: "Image") -> ImageTokens:
        """Encode an image.

        Raises:
            InputError: The engine was made for another number of tokens.
        """
        layout = self.layout
        multiple = layout.patch * layout.merge
        pixels = self.processor(image, multiple)
        rows, columns = (side // multiple for side in pixels.shape[1:])
        self._check(rows * columns)
        places = patch_places(rows, columns, layout.merge)
        cos, sin = rotary_angles(places, (layout.head // 2,) * 2, dtype=np.float32)
        corners, weights = grid_corners(places, rows * layout.merge, columns * layout.merge, layout.side)
        feeds = {
            "pixel_values": cut_patches(pixels, layout.patch, layout.merge, layout.frames),
            "position_ids": corners,
            "position_weights": weights,
            "rotary_cos": cos,
            "rotary_sin": sin,
        }
        outputs = Outputs(self._session.run(self.component, feeds), self.component)
        shape = rows * columns, layout.out_width
        deep = tuple(outputs.take(deepstack_name(index), shape) for index in range(layout.deep))
        return ImageTokens(outputs.take("image_embeds", shape), rows, columns, deep)

    def _check(self, tokens: int) -> None:
        count = self._fixed("rotary_cos")
        if count is not None and tokens != count:
            raise InputError(
                f"image: got {tokens} tokens, expected {count}: the engine of {self.component!r} was made for no other "
                f"number; use an engine for onnxruntime or openvino"
            )


def grid_corners(places: np.ndarray, rows: int, columns: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the learned positions around each patch, int32 (..., 4), and their weights, float32 (..., 4).

    transformers: `get_vision_interpolation_indices_and_weights` with `align_corners`.

    Args:
        places: Row and column of each patch, (..., 2).
        rows: Patches to a column.
        columns: Patches to a row.
        side: Learned positions to a side of their grid.
    """
    last = np.maximum(np.array([rows, columns]) - 1, 1).astype(np.float32)
    found = places.astype(np.float32) * np.float32(side - 1) / last
    floor = np.floor(found)
    near = np.stack([floor, floor + 1], axis=-1)
    taps = np.clip(near, 0, side - 1).astype(np.int32)
    weights = np.clip(np.float32(1) - np.abs(found[..., None] - near), 0, None).astype(np.float32)
    joined = taps[..., 0, :, None] * side + taps[..., 1, None, :]
    products = weights[..., 0, :, None] * weights[..., 1, None, :]
    shape = (*places.shape[:-1], CORNERS)
    return joined.reshape(shape).astype(np.int32), products.reshape(shape)
