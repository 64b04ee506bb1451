"""Image encoder of Qwen 2.5 VL: an image to tokens of its language model.

Qwen team 2025, https://arxiv.org/abs/2502.13923.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import Config, integer, refuse
from diffoundry.runtime.images.patch_processor import PatchProcessor
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.roles import IMAGE_ENCODER
from diffoundry.runtime.models.rotary import rotary_angles

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "ImageTokens",
    "PatchVisionEncoder",
    "QwenVisionEncoder",
    "VisionLayout",
    "cut_patches",
    "patch_places",
    "read_vision_layout",
]


_Layout = TypeVar("_Layout")


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionLayout:
    """The interface of the network, as its config describes it.

    Attributes:
        patch: Pixels to a side of a patch.
        merge: Patches to a side of a token.
        frames: Times that an image is repeated, as the frames of a video.
        window: Tokens to a side of a window.
        head: Width of a head.
        patch_values: Values of a patch.
        out_width: Of a token.
    """

    patch: int
    merge: int
    frames: int
    window: int
    head: int
    patch_values: int
    out_width: int

    @property
    def window_patches(self) -> int:
        """Most patches of a window."""
        return (self.window * self.merge) ** 2


@dataclass(frozen=True, slots=True, eq=False)
class ImageTokens:
    """An image, encoded.

    Attributes:
        embeds: float32 (rows * columns, D).
        rows: Tokens to a column.
        columns: Tokens to a row.
        deep: Further features of it, (rows * columns, D) each, for the first layers of the language model.
    """

    embeds: FloatArray
    rows: int
    columns: int
    deep: tuple[FloatArray, ...] = ()


def read_vision_layout(config: Config, subject: str) -> VisionLayout:
    """Read the part `vision_config` of config.json with the defaults of transformers' `Qwen2_5_VLVisionConfig`.

    Args:
        config: The config.
        subject: Name of the file in messages.

    Raises:
        ConfigError: A value has another type, is out of range, or does not fit the others.
    """
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        raise refuse(subject, "vision_config", vision, "an object: editing needs the image encoder")
    patch, merge, frames, pixels, width, heads, out, channels = (
        integer(vision, name, default, subject=subject)
        for name, default in (
            ("patch_size", 14), ("spatial_merge_size", 2), ("temporal_patch_size", 2), ("window_size", 112),
            ("hidden_size", 3584), ("num_heads", 16), ("out_hidden_size", 3584), ("in_channels", 3),
        )
    )  # fmt: skip
    if pixels % (patch * merge):
        raise refuse(subject, "window_size", pixels, f"a multiple of {patch * merge}, the pixels of a token")
    if width % (4 * heads):
        raise refuse(subject, "hidden_size", width, f"a multiple of {4 * heads}, four for each head")
    return VisionLayout(
        patch=patch,
        merge=merge,
        frames=frames,
        window=pixels // (patch * merge),
        head=width // heads,
        patch_values=channels * frames * patch**2,
        out_width=out,
    )


class PatchVisionEncoder(Generic[_Layout]):
    """Runs an image encoder over patches. transformers: `Qwen2VLImageProcessor`.

    Attributes:
        component: Name of the component.
        layout: Its interface.
        processor: Prepares images.
    """

    def __init__(self, session: EngineSession, read_layout: Callable[[Config, str], _Layout]) -> None:
        """Read both configs; the engine is opened when first needed.

        Args:
            session: The engines.
            read_layout: Reads the interface from a config, named in messages.

        Raises:
            BundleError: The bundle lacks the component, its config, or that of the preparation of images.
            ConfigError: A value has another type, is out of range, or does not fit the others.
        """
        bundle = session.bundle
        self.component = bundle.component(IMAGE_ENCODER)
        self.layout = read_layout(bundle.config(self.component), f"{self.component}/config.json")
        self.processor = PatchProcessor.from_config(bundle.read_object("processor/preprocessor_config.json"))
        self._session = session

    def _fixed(self, name: str) -> int | None:
        """Return the only first size of an input that the engine takes; None for any."""
        shapes = {spec.name: spec.shape for spec in self._session.inputs(self.component)}
        size = shapes[name][0]
        return size if isinstance(size, int) else None


class QwenVisionEncoder(PatchVisionEncoder[VisionLayout]):
    """The image encoder of Qwen 2.5 VL. transformers: `Qwen2_5_VisionTransformerPretrainedModel`."""

    def __init__(self, session: EngineSession) -> None:
        """See `PatchVisionEncoder`."""
        super().__init__(session, read_vision_layout)

    def __call__(self, image: "Image") -> ImageTokens:
        """Encode an image.

        Raises:
            InputError: The engine was made for fewer windows.
        """
        layout = self.layout
        pixels = self.processor(image, layout.patch * layout.merge)
        rows, columns = (side // (layout.patch * layout.merge) for side in pixels.shape[1:])
        patches = cut_patches(pixels, layout.patch, layout.merge, layout.frames)
        places = patch_places(rows, columns, layout.merge)
        down, across = (-(-side // layout.window) for side in (rows, columns))
        cells = np.full((down * layout.window, across * layout.window), -1)
        cells[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
        windows = cells.reshape(down, layout.window, across, layout.window).transpose(0, 2, 1, 3)
        windows = self._fill(windows.reshape(down * across, layout.window**2))
        cos, sin = rotary_angles(places[windows], (layout.head // 2,) * 2, dtype=np.float32)
        taken = windows >= 0
        feeds = {
            "pixel_values": patches[windows] * taken[..., None, None],
            "window_mask": np.repeat(taken.astype(np.float32), layout.merge**2, axis=1),
            "rotary_cos": cos,
            "rotary_sin": sin,
        }
        merged = {"pixel_values", "rotary_cos", "rotary_sin"}
        feeds = {
            name: array.reshape(len(array), layout.window_patches, array.shape[-1]) if name in merged else array
            for name, array in feeds.items()
        }
        outputs = Outputs(self._session.run(self.component, feeds), self.component)
        tokens = outputs.take("image_embeds", (*windows.shape, layout.out_width))
        embeds = np.empty((rows * columns, layout.out_width), np.float32)
        embeds[windows[taken]] = tokens[taken]
        return ImageTokens(embeds, rows, columns)

    def _fill(self, windows: np.ndarray) -> np.ndarray:
        """Add empty windows up to the number that the engine takes.

        Raises:
            InputError: It takes fewer.
        """
        count = self._fixed("window_mask")
        if count is None:
            return windows
        if len(windows) > count:
            raise InputError(
                f"image: got {len(windows)} windows of patches, expected at most {count}: the engine of "
                f"{self.component!r} was made for no more; use an engine for onnxruntime or openvino"
            )
        return np.pad(windows, ((0, count - len(windows)), (0, 0)), constant_values=-1)


def cut_patches(pixels: FloatArray, patch: int, merge: int, frames: int) -> FloatArray:
    """Return the values of the patches of each token, (tokens, patches, values).

    Args:
        pixels: float32 (3, H, W).
        patch: Pixels to a side of a patch.
        merge: Patches to a side of a token.
        frames: Times that the image is repeated.
    """
    channels, height, width = pixels.shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    cut = pixels.reshape(channels, rows, merge, patch, columns, merge, patch)
    tokens = cut.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    repeated = np.broadcast_to(tokens, (*tokens.shape[:5], frames, *tokens.shape[6:]))
    return repeated.reshape(rows * columns, merge**2, channels * frames * patch**2)


def patch_places(rows: int, columns: int, merge: int) -> np.ndarray:
    """Return row and column of the patches of each token, float64 (tokens, patches, 2).

    Args:
        rows: Tokens to a column.
        columns: Tokens to a row.
        merge: Patches to a side of a token.
    """
    places = np.indices((rows * merge, columns * merge), dtype=np.float64)
    cut = places.reshape(2, rows, merge, columns, merge).transpose(1, 3, 2, 4, 0)
    return cut.reshape(rows * columns, merge**2, 2)
