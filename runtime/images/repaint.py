"""Images and masks of RePaint, as diffusers' `RePaintPipeline` reads them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.mask import MaskInput, mask_arrays
from diffoundry.runtime.images.pixels import check_pil, resize_nearest

__all__ = ["preprocess_known"]


def preprocess_known(mask: MaskInput, height: int, width: int) -> NDArray[np.float32]:
    """Convert masks to ones where the image is known and zeros where it is generated.

    PIL images are converted to grey, resized to the nearest pixel, and white from 0.5 on. Arrays keep their values, so
    that a mask may be soft.
    diffusers: `_preprocess_mask` of `RePaintPipeline`.

    Args:
        mask: PIL images, or arrays as in `mask_arrays`.
        height: Pixels.
        width: Pixels.

    Returns:
        float32, (n, 1, height, width), 0 to 1.

    Raises:
        InputError: The mask has another type, shape or range.
    """
    arrays = mask_arrays(mask)
    if arrays is not None:
        values = resize_nearest(arrays[..., None], height, width)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)
    from PIL.Image import Resampling

    items: list[Any] = list(mask) if isinstance(mask, Sequence) else [mask]
    if not items:
        raise InputError("mask_image: got an empty list, expected at least one mask")
    check_pil(items, "mask_image")
    greys = [item.convert("L").resize((width, height), resample=Resampling.NEAREST) for item in items]
    values = np.stack([np.asarray(grey) for grey in greys]).astype(np.float32) / 255.0
    return (values >= 0.5).astype(np.float32)[:, None]
