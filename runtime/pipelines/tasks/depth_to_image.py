"""Depth to image: image to image that keeps the depth of the image."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.tensors import is_tensor, to_array
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, TaskContext
from diffoundry.runtime.pipelines.tasks.image_to_image import ImageToImage
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch, image_size
from diffoundry.runtime.schedulers.arithmetic.resampling import resample

__all__ = ["DepthToImage"]

_GREYS = ("I;16", "I;16B", "I", "F")
"""PIL modes of grey with more than 8 bits, which a conversion to 8 bits would cut off."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DepthToImage(ImageToImage):
    """diffusers: `StableDiffusionDepth2ImgPipeline`. The denoiser takes depth in a further channel.

    Attributes:
        depth_map: Depth of each image, of any size and scale, larger where the image is nearer: floats (B, H, W), or
            (H, W) for one; or a grey PIL image. It is resized to the latents, and scaled to -1..1. Where it is missing,
            the checkpoint's depth estimator computes it from `image`, which must then be PIL images.
    """

    returns_flags: ClassVar[bool] = False
    name: ClassVar[str] = "depth_to_image"
    label: ClassVar[str] = "depth to image"
    required_args: ClassVar[tuple[str, ...]] = ("image",)

    depth_map: Any = None

    @classmethod
    def fits(cls, extra: int, latent: int) -> bool:  # noqa: ARG003
        """See `Task.fits`: one channel of depth."""
        return extra == 1

    def check(self, inputs: CommonInputs, family: Family) -> None:
        """See `Task.check`: without a depth map there is a depth estimator, and it can read the image."""
        ImageToImage.check(self, inputs, family)
        if self.depth_map is not None:
            _check_range(self._depth(), "depth_map: got")
            return
        if family.depth_estimator is None:
            raise InputError(
                "depth_map: got none, expected the depth of the image, since this bundle has no depth estimator; pass "
                "it, or export a checkpoint with one"
            )
        images = self._images()
        if not all(hasattr(image, "getbands") for image in images):
            raise InputError(
                "depth_map: got none for an array or latents, expected it: the depth estimator reads PIL images; pass "
                "one as image, or pass depth_map"
            )
        image_size(images)
        family.depth_estimator.check(images)

    def begin(self, context: TaskContext) -> LoopInit:
        """Start as image to image, and join the depth. diffusers: `prepare_depth_map`."""
        if self.depth_map is not None:
            depth = self._depth()
        else:
            assert context.family.depth_estimator is not None
            depth = context.family.depth_estimator(self._images())
            _check_range(depth, "image: the depth estimator sees")
        init = ImageToImage.begin(self, context)
        small = resample(depth[:, None], context.shape[2:], "bicubic")
        low, high = (reduce(small, axis=(1, 2, 3), keepdims=True) for reduce in (np.min, np.max))
        scaled = np.float32(2.0) * (small - low) / (high - low) - np.float32(1.0)
        rows = fill_batch(scaled.astype(np.float32), context.images, "depth_map")
        return replace(init, channels=np.concatenate([rows] * context.copies))

    def _images(self) -> list[Any]:
        return list(self.image) if isinstance(self.image, list | tuple) else [self.image]

    def _depth(self) -> FloatArray:
        """Return the depth, float32 (B, H, W).

        Raises:
            InputError: It is something else.
        """
        given = self.depth_map
        if hasattr(given, "getbands"):
            grey = given if given.mode in _GREYS else given.convert("L")
            return np.asarray(grey, np.float32)[None]
        array = to_array(given) if is_tensor(given) else given
        if isinstance(array, np.ndarray) and array.ndim == 2:
            array = array[None]
        fits = isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.ndim == 3 and array.size
        if not fits or not np.isfinite(array).all():
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(given).__name__
            raise InputError(
                f"depth_map: got {found}, expected finite floats (height, width) or (B, height, width), or a grey PIL "
                f"image"
            )
        return np.asarray(array, np.float32)


def _check_range(depth: FloatArray, beginning: str) -> None:
    """Refuse depth (B, H, W) that is the same everywhere, which cannot be scaled to -1..1.

    Raises:
        InputError: As said; the message begins with `beginning`.
    """
    if np.any(np.ptp(depth, axis=(1, 2)) == 0):
        raise InputError(f"{beginning} the same depth everywhere, expected near and far parts")
