"""The watermark of DeepFloyd IF against diffusers, bit for bit."""

import numpy as np
import torch
from diffusers.pipelines.deepfloyd_if import IFWatermarker as Reference
from PIL.Image import fromarray

from diffoundry.runtime.images.if_watermark import IFWatermarker

MARK = np.random.default_rng(0).integers(0, 256, (62, 62, 4), np.uint8)

SIZES = ((64, 64, 64), (256, 192, 64), (48, 80, 64), (1024, 1024, None), (512, 768, None), (40, 56, 8))
"""Width and height of an image, and the side that the network was trained for."""


def pictures(width, height):
    pixels = np.random.default_rng(1).integers(0, 256, (2, height, width, 3), np.uint8)
    return [fromarray(one) for one in pixels]


def test_watermarked_images_are_diffusers():
    reference, ours = Reference(), IFWatermarker(MARK)
    reference.watermark_image = torch.from_numpy(MARK).float()
    for width, height, side in SIZES:
        plain = pictures(width, height)
        marked = ours.apply_watermark(plain, side)
        expected = reference.apply_watermark(pictures(width, height), side)
        for one, other, before, clean in zip(marked, expected, plain, pictures(width, height), strict=True):
            assert one.tobytes() == other.tobytes()
            assert before.tobytes() == clean.tobytes()  # the caller's image is unchanged
            drawn = width >= (side or height)  # in a narrower image it lies beyond the edge
            assert (one.tobytes() != before.tobytes()) == drawn


def test_an_image_without_room_stays_as_it_is():
    """diffusers fails below 17 x 17 pixels."""
    plain = pictures(16, 16)
    assert [one.tobytes() for one in IFWatermarker(MARK).apply_watermark(plain, 16)] == [o.tobytes() for o in plain]
