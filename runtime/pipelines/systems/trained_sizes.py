"""The sizes that PixArt and Sana were trained on, and images resized to the size that a call asks for.

diffusers: `ASPECT_RATIO_256_BIN` and the others of `PixArtAlphaPipeline`, `PixArtSigmaPipeline` and `SanaPipeline`, and
`PixArtImageProcessor`.
"""

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.schedulers.arithmetic.resampling import resample

__all__ = ["closest_size", "fit_images"]

_SIZES_1024 = (
    "512x2048 512x1856 576x1792 576x1728 576x1664 640x1600 640x1536 704x1472 704x1408 704x1344 768x1344 768x1280 "
    "832x1216 832x1152 896x1152 896x1088 960x1088 960x1024 1024x1024 1024x960 1088x960 1088x896 1152x896 1152x832 "
    "1216x832 1280x768 1344x768 1408x704 1472x704 1536x640 1600x640 1728x576 2048x512"
)
_SIZES_2048 = (
    "1024x4096 1024x3968 1024x3840 1024x3712 1152x3584 1152x3456 1152x3328 1280x3200 1280x3072 1408x2944 1408x2816 "
    "1408x2688 1536x2688 1536x2560 1664x2432 1664x2304 1792x2304 1792x2176 1920x2176 1920x2048 2048x2048 2048x1920 "
    "2176x1920 2176x1792 2304x1792 2304x1664 2432x1664 2560x1536 2688x1536 2816x1408 2944x1408 3072x1280 3200x1280 "
    "3328x1152 3456x1152 3584x1152 3712x1024 3840x1024 3968x1024 4096x1024"
)
"""Height and width in pixels of networks for 1024 and 2048 pixels."""

_TABLES = {
    4096: (_SIZES_2048, 2), 2048: (_SIZES_2048, 1), 1024: (_SIZES_1024, 1), 512: (_SIZES_1024, 0.5),
    256: (_SIZES_1024, 0.25),
}  # fmt: skip
"""Pixels of a network to a table and its factor."""


def closest_size(height: int, width: int, sample_size: int, pixels: int = 8) -> tuple[int, int]:
    """Return the size of the training whose ratio of height to width is closest.

    diffusers: `PixArtImageProcessor.classify_height_width_bin`, which compares with ratios of two decimals.

    Args:
        height: Pixels.
        width: Pixels.
        sample_size: Latents to a side of the images of the training.
        pixels: Pixels to a side of a latent in that training.

    Raises:
        InputError: There is no table for this `sample_size`.
    """
    if sample_size * pixels not in _TABLES:
        known = ", ".join(str(side // pixels) for side in sorted(_TABLES))
        raise InputError(
            f"use_resolution_binning: got True with a network whose sample_size is {sample_size}, expected one of "
            f"{known}, for which there are tables of sizes; pass False"
        )
    table, factor = _TABLES[sample_size * pixels]
    sizes = [tuple(int(int(side) * factor) for side in size.split("x")) for size in table.split()]
    chosen = min(sizes, key=lambda size: abs(round(size[0] / size[1], 2) - height / width))
    return chosen[0], chosen[1]


def fit_images(images: FloatArray, height: int, width: int) -> FloatArray:
    """Resize images (B, C, H, W) to cover a size, and cut off what is around it, equally at both ends.

    diffusers: `PixArtImageProcessor.resize_and_crop_tensor`.
    """
    own_height, own_width = images.shape[2:]
    if (own_height, own_width) == (height, width):
        return images
    ratio = max(height / own_height, width / own_width)
    large = int(own_height * ratio), int(own_width * ratio)
    resized = resample(images, large, "bilinear")
    top, left = (large[0] - height) // 2, (large[1] - width) // 2
    return resized[:, :, top : top + height, left : left + width]
