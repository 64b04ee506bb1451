"""Heat maps of attention over images, in the manner of DAAM (Tang et al. 2022, https://arxiv.org/abs/2210.04885)."""

import numpy as np
from PIL import Image

from diffoundry.runtime.models.protocols import FloatArray

__all__ = ["draw_heat_map"]

_COLORS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)
"""From weak to strong: every fourth part of matplotlib's "inferno"."""


def draw_heat_map(attention: FloatArray, image: Image.Image, opacity: float = 0.6) -> Image.Image:
    """Draw attention over a gray copy of an image, the weakest place dark, the strongest bright.

    Args:
        attention: float32 (h, w) of any size and scale; it is enlarged with bicubic interpolation.
        image: The image.
        opacity: 0 shows the gray image, 1 the map alone.
    """
    enlarged = Image.fromarray(np.asarray(attention, np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    values = np.asarray(enlarged)
    low, high = values.min(), values.max()
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    stops = np.linspace(0, 1, len(_COLORS))
    colors = np.stack([np.interp(share, stops, channel) for channel in _COLORS.T], axis=-1)
    gray = np.asarray(image.convert("L"), np.float32)[..., None]
    return Image.fromarray(np.rint(gray * (1 - opacity) + colors * opacity).astype(np.uint8))
