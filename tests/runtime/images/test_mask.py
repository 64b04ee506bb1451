"""Masks against diffusers' `VaeImageProcessor`, bit for bit, on random masks, images and sizes."""

import copy

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.mask import crop_region, overlay, preprocess_mask, resize_and_fill

PROCESSOR = VaeImageProcessor()
MASK_PROCESSOR = VaeImageProcessor(do_normalize=False, do_binarize=True, do_convert_grayscale=True)


def cases(count=120):
    """A mask with one grey rectangle, an image of its size, the size that is generated, and a margin."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        width, height = (int(side) for side in rng.integers(8, 90, 2))
        mask = np.zeros((height, width), np.uint8)
        left, top = rng.integers(0, width), rng.integers(0, height)
        mask[top : top + rng.integers(1, 40), left : left + rng.integers(1, 40)] = rng.integers(1, 256)
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        wide, high = (int(side) * 8 for side in rng.integers(2, 12, 2))
        yield Image.fromarray(mask), image, wide, high, int(rng.integers(0, 20))


def test_the_part_that_is_generated():
    for mask, image, width, height, padding in cases():
        box = crop_region(mask, width, height, padding)
        assert box == VaeImageProcessor.get_crop_region(mask, width, height, padding)
        part = image.crop(box)
        filled = resize_and_fill(part, width, height)
        np.testing.assert_array_equal(filled, PROCESSOR._resize_and_fill(part, width, height))
        generated = Image.effect_noise((width, height), 90).convert("RGB")
        expected = PROCESSOR.apply_overlay(mask, image, generated, box)
        np.testing.assert_array_equal(overlay(generated, image, mask, box), expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P"])
def test_masks_are_binary(mode):
    for mask, *_, width, height, _ in cases(20):
        converted = mask.convert(mode)
        expected = MASK_PROCESSOR.preprocess(converted, height, width).numpy()
        np.testing.assert_array_equal(preprocess_mask(converted, height, width), expected)


def test_arrays_and_lists():
    values = np.random.default_rng(1).random((2, 30, 20), dtype=np.float32)
    for given in (values, values[0], [values[0], values[1]]):
        expected = MASK_PROCESSOR.preprocess(given, 32, 24).numpy()
        np.testing.assert_array_equal(preprocess_mask(given, 32, 24), expected)


def test_masks_of_every_layout_of_arrays_and_tensors():
    values = np.random.default_rng(1).random((2, 30, 20), dtype=np.float32)
    tensor = torch.from_numpy(values)
    arrays = [values[..., None], values[0][..., None], [value[..., None] for value in values]]
    tensors = [tensor, tensor[0], tensor[:, None], list(tensor), list(tensor[:, None]), tensor.to(torch.bfloat16)]
    for given in (*arrays, *tensors):
        expected = MASK_PROCESSOR.preprocess(copy.deepcopy(given), 32, 24).float().numpy()
        np.testing.assert_array_equal(preprocess_mask(given, 32, 24), expected)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([], "mask_image: got an empty list, expected at least one mask"),
        (torch.zeros(2, 3, 8, 8), r"mask_image: got arrays of float32 \[\(2, 3, 8, 8\)\], expected floats"),
        (np.zeros((2, 8, 8, 3)), r"mask_image: got arrays of float64 \[\(2, 8, 8, 3\)\], expected floats"),
        (np.zeros((8, 8), np.uint8), "mask_image: got arrays of uint8"),
        (np.full((8, 8), 255.0), "mask_image: got values from 255 to 255, expected 0 to 1; scale it"),
        ([np.zeros((8, 8)), np.zeros((8, 9))], r"mask_image: got arrays of float64 \[\(8, 8\), \(8, 9\)\]"),
        (Image.new("I;16", (8, 8)), "mask_image: got the PIL mode 'I;16', expected 8 bits a channel"),
    ],
)
def test_other_masks_are_refused(mask, message):
    with pytest.raises(InputError, match=message):
        preprocess_mask(mask, 8, 8)


def test_a_black_mask_covers_nothing():
    with pytest.raises(InputError, match="mask_image: got a black one, expected white where"):
        crop_region(Image.new("L", (8, 8)), 8, 8, 0)
