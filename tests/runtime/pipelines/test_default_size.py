"""A checkpoint whose config names no size: height and width must be given, and then it generates."""

import numpy as np
import pytest

from diffoundry.runtime.errors import InputError


def test_without_a_sample_size_height_and_width_are_needed(tiny, monkeypatch):
    settings = {"seed": 0, "num_inference_steps": 1, "output_type": "latent"}
    expected = tiny("a red apple", height=16, width=16, **settings).images
    monkeypatch.setattr(tiny.denoiser, "sample_size", None)
    np.testing.assert_array_equal(tiny("a red apple", height=16, width=16, **settings).images, expected)
    for size in ({}, {"height": 16}, {"width": 16}):
        with pytest.raises(InputError, match="the config of 'unet' names no sample_size, so there is no default size"):
            tiny("a red apple", **settings, **size)
    image = np.zeros((16, 16, 3), np.float32)
    assert tiny("a red apple", image=image, strength=1.0, **settings).images.shape == expected.shape
