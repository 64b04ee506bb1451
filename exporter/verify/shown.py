"""Pictures as a report shows them: side by side with their difference, worst first."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffoundry.exporter.verify.report import BuildReport
from diffoundry.exporter.verify.watch import PicturePair
from diffoundry.runtime.cli.report import Picture, Pictures

__all__ = ["amplification", "picture_section", "to_image"]

_SHOWN = 16
_LARGEST = 256
"""Pixels: larger pictures are scaled down, so that a report of many stays of a size that one sends around."""

FloatArray = NDArray[np.float32]


def picture_section(build: BuildReport, pairs: Sequence[PicturePair]) -> Pictures:
    """What diffusers painted, what the bundle did, and how they differ.

    Args:
        build: What was measured of them.
        pairs: Those of this build, in the order of its loops.
    """
    order = sorted(range(len(pairs)), key=lambda i: (not math.isnan(build.loops[i].psnr), build.loops[i].psnr))
    shown = order[:_SHOWN]
    factor = amplification([_difference(pairs[index]) for index in shown])
    pictures = []
    for index in shown:
        pair, loop = pairs[index], build.loops[index]
        difference = np.clip(_difference(pair) * factor, 0, 1)
        name = f"shows {loop.shows}, {loop.psnr:.1f} dB" if loop.shows else f"{loop.psnr:.1f} dB"
        pictures += [
            Picture(image=to_image(pair.reference), caption=loop.name, note="diffusers, fp32"),
            Picture(image=to_image(pair.ours), caption=build.name, note=f"{name}, SSIM {loop.ssim:.4f}"),
            Picture(image=to_image(difference), caption="difference", note=f"{factor} times"),
        ]
    text = f"Painted by diffusers in fp32 and by {build.name} from the same noise; the worst come first."
    if len(order) > _SHOWN:
        text += f" The {_SHOWN} worst of {len(order)}."
    if any(max(pair.ours.shape) > _LARGEST for pair in pairs):
        text += f" Scaled down to {_LARGEST} pixels after the difference was taken."
    return Pictures(title=f"{build.name}: pictures", pictures=pictures, columns=6, text=text)


def amplification(differences: Sequence[FloatArray]) -> int:
    """The power of two that brings the largest difference near to white, where one in a thousand may be larger.

    Args:
        differences: Absolute, of values in 0..1; NaN counts as nothing.
    """
    largest = max((float(np.quantile(np.nan_to_num(one), 0.999)) for one in differences), default=0.0)
    return 1 << max(0, min(20, math.floor(-math.log2(largest)))) if largest > 0 else 1


def to_image(pixels: NDArray[np.floating]) -> Image.Image:
    """An image of at most 256 pixels a side; NaN is shown as black.

    Args:
        pixels: Floats (height, width, 3) in 0..1.
    """
    image = Image.fromarray(np.round(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8))
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    return image


def _difference(pair: PicturePair) -> FloatArray:
    if pair.ours.shape != pair.reference.shape:
        return np.ones_like(pair.reference)
    return np.asarray(np.abs(pair.ours - pair.reference))
