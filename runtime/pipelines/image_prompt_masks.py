"""Masks of image prompts: areas of the image that each works in."""

import math
from typing import Any

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.mask import preprocess_mask
from diffoundry.runtime.images.tensors import is_tensor, to_array
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.schedulers.arithmetic.resampling import resample

__all__ = ["downsample_masks", "read_masks"]


def read_masks(mask: Any, images: int, size: tuple[int, int]) -> FloatArray:
    """Return masks (images, H, W).

    diffusers: `IPAdapterMaskProcessor.preprocess`.

    Raises:
        InputError: There are not as many as images, or one is no mask.
    """
    given = list(mask) if isinstance(mask, list | tuple) else mask
    if isinstance(given, np.ndarray) or is_tensor(given):
        array: Any = to_array(given) if is_tensor(given) else given
        array = array[0] if array.ndim == 4 and len(array) == 1 else array
        if array.ndim != 3 or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(
                f"ip_adapter_masks: got an array of {array.dtype} {array.shape}, expected finite floats "
                f"(images, height, width)"
            )
        found: FloatArray = np.asarray(array, np.float32)
    else:
        found = preprocess_mask(given, *size, name="ip_adapter_masks")[:, 0]
    if len(found) != images:
        raise InputError(
            f"ip_adapter_masks: got {len(found)} masks for {images} images of an IP-Adapter, expected one for each"
        )
    return found


def downsample_masks(maps: FloatArray, queries: int) -> FloatArray:
    """Resize masks (n, H, W) to as many values as there are queries, (n, queries).

    diffusers: `IPAdapterMaskProcessor.downsample`, which knows the number alone; the rest is cut off or 0.
    """
    ratio = maps.shape[2] / maps.shape[1]
    height = int(math.sqrt(queries / ratio))
    height += int(queries % height != 0)
    width = queries // height
    small = resample(maps[:, None], (height, width), "bicubic").reshape(len(maps), -1)[:, :queries]
    return np.pad(small, ((0, 0), (0, queries - small.shape[1]))).astype(np.float32)
