"""Inpainting masks and the region they cover, bit for bit as diffusers' `VaeImageProcessor` makes them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import check_pil, resize_nearest
from diffoundry.runtime.images.tensors import Tensor, is_tensor, to_array

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Box", "MaskInput", "crop_region", "mask_arrays", "overlay", "preprocess_mask", "resize_and_fill"]

_Array: TypeAlias = NDArray[np.floating[Any]] | Tensor

MaskInput: TypeAlias = "Image | _Array | Sequence[Image] | Sequence[_Array]"

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""


def preprocess_mask(mask: MaskInput, height: int, width: int, *, name: str = "mask_image") -> NDArray[np.float32]:
    """Convert masks to ones where the image is regenerated and zeros where it is kept.

    PIL images are resized with Lanczos and converted to grey. Arrays are resized to the nearest pixel. Values from
    0.5 on count as white.
    diffusers: `VaeImageProcessor(do_normalize=False, do_binarize=True, do_convert_grayscale=True).preprocess`.

    Args:
        mask: PIL images, or arrays as in `mask_arrays`.
        height: Pixels.
        width: Pixels.
        name: Name of the argument, for messages.

    Returns:
        float32, (n, 1, height, width), 0 or 1.

    Raises:
        InputError: The mask has another type, shape or range.
    """
    arrays = mask_arrays(mask)
    if arrays is not None:
        values = resize_nearest(arrays[..., None], height, width)
    else:
        from PIL.Image import Resampling

        items: list[Any] = list(mask) if isinstance(mask, Sequence) else [mask]
        if not items:
            raise InputError(f"{name}: got an empty list, expected at least one mask")
        check_pil(items, name)
        greys = [item.resize((width, height), resample=Resampling.LANCZOS).convert("L") for item in items]
        values = np.stack([np.asarray(grey) for grey in greys])[..., None].astype(np.float32) / 255.0
    return (values >= 0.5).astype(np.float32).transpose(0, 3, 1, 2)


def mask_arrays(mask: MaskInput) -> NDArray[Any] | None:
    """Return masks that are arrays as (n, H, W), floats in 0..1; None for PIL images.

    Args:
        mask: PIL images; or floats in 0..1, in an array (H, W), (H, W, 1), (n, H, W) or (n, H, W, 1), in a tensor of
            torch (H, W), (n, H, W) or (n, 1, H, W), or in a list with one mask each, of one shape.

    Raises:
        InputError: Arrays of another type, shape or range.
    """
    items: list[Any] = list(mask) if isinstance(mask, list | tuple) else [mask]
    if not items or not all(isinstance(item, np.ndarray) or is_tensor(item) for item in items):
        return None
    channel = -3 if is_tensor(items[0]) else -1
    arrays = [to_array(item) if is_tensor(item) else item for item in items]
    shapes = {item.shape for item in arrays}
    values = arrays[0] if len(arrays) == 1 and arrays[0].ndim > 2 else np.stack(arrays) if len(shapes) == 1 else None
    if values is not None and values.shape[channel] == 1 and (values.ndim == 4 or channel == -1):
        values = np.squeeze(values, axis=channel)
        values = values[None] if values.ndim == 2 else values
    if values is None or values.ndim != 3 or not values.size or not np.issubdtype(values.dtype, np.floating):
        raise InputError(
            f"mask_image: got arrays of {arrays[0].dtype} {sorted(shapes)}, expected floats (height, width) of one "
            f"shape"
        )
    if not (values.min() >= 0 and values.max() <= 1):
        raise InputError(f"mask_image: got values from {values.min():g} to {values.max():g}, expected 0 to 1; scale it")
    return values


def crop_region(mask: "Image", width: int, height: int, padding: int) -> Box:
    """Find the box that is generated: the mask's extent plus a margin, widened to the proportions of the size.

    diffusers: `VaeImageProcessor.get_crop_region`.

    Args:
        mask: White is regenerated.
        width: Width in pixels of the generated image.
        height: Height in pixels of the generated image.
        padding: Pixels of the margin.

    Raises:
        InputError: The mask is black.
    """
    covered = np.asarray(mask.convert("L")) != 0
    columns, rows = np.flatnonzero(covered.any(axis=0)), np.flatnonzero(covered.any(axis=1))
    if not len(columns):
        raise InputError("mask_image: got a black one, expected white where the image is regenerated")
    left, right = _padded(columns, padding, mask.width)
    top, bottom = _padded(rows, padding, mask.height)
    proportion = width / height
    if (right - left) / (bottom - top) > proportion:
        missing = int((right - left) / proportion - (bottom - top))
        top, bottom = _widened(top, bottom, missing, mask.height)
    else:
        missing = int((bottom - top) * proportion - (right - left))
        left, right = _widened(left, right, missing, mask.width)
    return left, top, right, bottom


def _padded(places: NDArray[np.intp], padding: int, limit: int) -> tuple[int, int]:
    return max(int(places[0]) - padding, 0), min(int(places[-1]) + 1 + padding, limit)


def _widened(low: int, high: int, missing: int, limit: int) -> tuple[int, int]:
    """Lengthen an interval on both sides, then move or cut it where it leaves 0 .. limit."""
    low, high = low - missing // 2, high + missing - missing // 2
    if high >= limit:
        low, high = low - (high - limit), limit
    if low < 0:
        low, high = 0, high - low
    return low, min(high, limit)


def resize_and_fill(image: "Image", width: int, height: int) -> "Image":
    """Fit an image into an RGB image of the size, centred, with its edges stretched into the margins.

    diffusers: `VaeImageProcessor._resize_and_fill`.
    """
    from PIL.Image import Resampling, new

    wider = width / height < image.width / image.height
    inner_width = width if wider else image.width * height // image.height
    inner_height = image.height * width // image.width if wider else height
    resized = image.resize((inner_width, inner_height), resample=Resampling.LANCZOS)
    filled = new("RGB", (width, height))
    above, beside = height // 2 - inner_height // 2, width // 2 - inner_width // 2
    filled.paste(resized, box=(beside, above))
    if wider and above > 0:
        filled.paste(resized.resize((width, above), box=(0, 0, width, 0)), box=(0, 0))
        edge = (0, resized.height, width, resized.height)
        filled.paste(resized.resize((width, above), box=edge), box=(0, above + inner_height))
    elif not wider and beside > 0:
        filled.paste(resized.resize((beside, height), box=(0, 0, 0, height)), box=(0, 0))
        edge = (resized.width, 0, resized.width, height)
        filled.paste(resized.resize((beside, height), box=edge), box=(beside + inner_width, 0))
    return filled


def overlay(generated: "Image", original: "Image", mask: "Image", box: Box) -> "Image":
    """Paste the generated region into the original where the mask is white.

    diffusers: `VaeImageProcessor.apply_overlay`.

    Args:
        generated: The region, in any size.
        original: The whole image.
        mask: Mask of the whole image's size.
        box: Place of the region in the original.
    """
    from PIL.Image import new
    from PIL.ImageOps import invert

    kept = new("RGBa", original.size)
    kept.paste(original.convert("RGBA").convert("RGBa"), mask=invert(mask.convert("L")))
    whole = new("RGBA", original.size)
    whole.paste(_resize_and_crop(generated, box[2] - box[0], box[3] - box[1]), box[:2])
    result = whole.convert("RGB").convert("RGBA")
    result.alpha_composite(kept.convert("RGBA"))
    return result.convert("RGB")


def _resize_and_crop(image: "Image", width: int, height: int) -> "Image":
    """Scale an image to cover an RGB image of the size, and crop the rest.

    diffusers: `VaeImageProcessor._resize_and_crop`.
    """
    from PIL.Image import Resampling, new

    proportion, own = width / height, image.width / image.height
    outer_width = width if proportion > own else image.width * height // image.height
    outer_height = height if proportion <= own else image.height * width // image.width
    resized = image.resize((outer_width, outer_height), resample=Resampling.LANCZOS)
    cropped = new("RGB", (width, height))
    cropped.paste(resized, box=(width // 2 - outer_width // 2, height // 2 - outer_height // 2))
    return cropped
