"""DPT's image processor against transformers', bit for bit, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.images.dpt_image_processor import DPTImageProcessor

OLD = {
    "do_normalize": True,
    "do_resize": True,
    "ensure_multiple_of": 1,
    "feature_extractor_type": "DPTFeatureExtractor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "keep_aspect_ratio": False,
    "resample": 2,
    "size": 48,
}
"""In the fields of Stable Diffusion 2's depth model."""

CONFIGS = {
    "nothing said": {},
    "old": OLD,
    "a rectangle": {"size": {"height": 20, "width": 31}},
    "the ratio kept": {"size": {"height": 33, "width": 48}, "keep_aspect_ratio": True},
    "the ratio kept, in multiples": {"size": 48, "keep_aspect_ratio": True, "ensure_multiple_of": 32},
    "not resized": {"do_resize": False, "image_mean": [0.5, 0.25, 0.1], "rescale_factor": 0.01},
    "not scaled": {"do_rescale": False, "size": 25, "do_normalize": False},
}


def images():
    random = np.random.default_rng(0)
    for width, height in ((384, 384), (97, 64), (64, 97), (32, 190)):
        yield Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
    yield Image.linear_gradient("L").convert("RGB")


def test_every_bit_is_transformers():
    for name, config in CONFIGS.items():
        theirs, ours = DPTImageProcessorPil(**config), DPTImageProcessor.from_config(config)
        saved = DPTImageProcessor.from_config(json.loads(theirs.to_json_string()))
        for image in images():
            expected = theirs(images=image, return_tensors="np").pixel_values
            given = ours([image])
            assert given.dtype == np.float32
            np.testing.assert_array_equal(given, expected.astype(np.float32), err_msg=name)
            np.testing.assert_array_equal(saved([image]), given, err_msg=name)
            assert ours.size_of(image) == given.shape[2:]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "preprocessor_config.json: got .*, expected an object"),
        (
            {"image_processor_type": "CLIPImageProcessor"},
            "'image_processor_type': got 'CLIPImageProcessor', expected DPTImageProcessor for a depth estimator",
        ),
        ({"do_pad": True}, "field 'do_pad': got true, expected none: it is not supported"),
        ({"ensure_multiple_of": 0}, "field 'ensure_multiple_of': got 0, expected a whole number"),
        ({"keep_aspect_ratio": 1}, "field 'keep_aspect_ratio': got 1, expected true or false"),
        ({"size": "large"}, "field 'size': got 'large', expected a number of pixels"),
    ],
)
def test_what_does_not_fit_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        DPTImageProcessor.from_config(config)


def test_images_of_several_sizes_and_other_values_are_refused():
    kept = DPTImageProcessor.from_config({"do_resize": False})
    with pytest.raises(InputError, match="got images of 8 x 8, 9 x 8, expected one size"):
        kept([Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))])
    with pytest.raises(InputError, match="image: got ndarray, expected PIL images"):
        DPTImageProcessor.from_config({})([np.zeros((8, 8, 3))])
