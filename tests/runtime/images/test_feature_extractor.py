"""CLIP's image processor against transformers', bit for bit, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.images.feature_extractor import FeatureExtractor

OLD = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}
"""As Stable Diffusion 1.5 has it."""

CONFIGS = {
    "nothing said": {},
    "old": OLD,
    "new": {**OLD, "size": {"shortest_edge": 30}, "crop_size": {"height": 30, "width": 30}, "rescale_factor": 1 / 255},
    "odd sides": {"size": {"shortest_edge": 41}, "crop_size": {"height": 17, "width": 33}},
    "a margin": {"size": {"shortest_edge": 21}, "crop_size": {"height": 64, "width": 33}},
    "a margin, odd": {"do_resize": False, "crop_size": {"height": 200, "width": 333}},
    "a rectangle": {"size": {"height": 20, "width": 31}, "do_center_crop": False, "resample": 1},
    "not scaled": {"do_rescale": False, "size": 25, "crop_size": 25, "resample": 2},
    "not normalized": {"do_normalize": False, "size": 25, "crop_size": 24, "rescale_factor": 0.01},
    "one mean": {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.25, 1.0], "size": 25, "crop_size": 24},
}


def images():
    random = np.random.default_rng(0)
    for width, height in ((224, 224), (97, 64), (64, 97), (301, 300), (32, 190)):
        yield Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
    yield Image.linear_gradient("L")
    yield Image.effect_noise((60, 50), 90).convert("RGBA")
    yield Image.effect_noise((60, 50), 90).convert("P")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_bit_is_transformers(name):
    config = CONFIGS[name]
    theirs, ours = CLIPImageProcessorPil(**config), FeatureExtractor.from_config(config)
    for image in images():
        expected = theirs(images=image, return_tensors="np").pixel_values
        given = ours([image])
        assert given.dtype == np.float32
        np.testing.assert_array_equal(given, expected.astype(np.float32))


def test_several_images_of_any_size_together():
    several = [next(images()), *list(images())[1:4]]
    expected = CLIPImageProcessorPil()(images=several, return_tensors="np").pixel_values
    np.testing.assert_array_equal(FeatureExtractor()(several), expected)


@pytest.mark.parametrize("config", [{}, CONFIGS["odd sides"], CONFIGS["not normalized"]])
def test_configs_written_by_transformers_are_read(config, tmp_path):
    theirs = CLIPImageProcessor(**config)
    theirs.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert FeatureExtractor.from_config(written) == FeatureExtractor.from_config(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"image_processor_type": "ViTImageProcessor"},
            "'image_processor_type': got 'ViTImageProcessor', expected CLIP",
        ),
        ({"do_pad": True}, "'do_pad': got true, expected none: it is not supported"),
        ({"size": {"longest_edge": 3}}, "'size': got {'longest_edge': 3}, expected a number of pixels"),
        ({"size": -3}, "'size': got -3, expected a number of pixels"),
        ({"crop_size": {"shortest_edge": 3}}, "'crop_size': got {'shortest_edge': 3}, expected a number"),
        ({"resample": 9}, "'resample': got 9, expected a whole number from 0 to 5"),
        ({"resample": "bicubic"}, "'resample': got 'bicubic', expected a whole number"),
        ({"do_resize": "yes"}, "'do_resize': got 'yes', expected true or false"),
        ({"image_mean": [0.5]}, r"'image_mean': got \[0.5\], expected null or a list of 3 numbers"),
    ],
)
def test_options_that_are_not_honoured_are_named(config, message):
    with pytest.raises(ConfigError, match=f"preprocessor_config.json: field {message}"):
        FeatureExtractor.from_config(config)


def test_images_that_do_not_fit():
    ours = FeatureExtractor(crop=None)
    with pytest.raises(
        InputError, match=r"image: got images of 10 x 20, 20 x 10, expected one size: this checkpoint does not crop"
    ):
        ours([Image.new("RGB", (10, 20)), Image.new("RGB", (20, 10))])
    with pytest.raises(InputError, match="image: got the PIL mode 'L', expected 'RGB' for this checkpoint"):
        FeatureExtractor(converts=False)([Image.new("L", (9, 9))])
    with pytest.raises(InputError, match="image: got the PIL mode 'I;16', expected 8 bits a channel"):
        ours([Image.new("I;16", (9, 9))])


def test_numbers_out_of_range_are_refused():
    for config, message in (
        ({"crop_size": 2**31}, "field 'crop_size': got 2147483648, expected a number of pixels"),
        ({"size": {"height": 5000, "width": 1}}, "field 'size': got {'height': 5000, 'width': 1}, expected a number"),
        ({"rescale_factor": float("nan")}, "field 'rescale_factor': got nan, expected a number from 1e-09 to 1e"),
        ({"image_std": [1, 0, 1]}, "field 'image_std': got .*, expected null or a list of 3 non-zero numbers"),
        ({"image_mean": [1, True, 1]}, "field 'image_mean': got .*, expected null or a list of 3 numbers"),
        ({"resample": 9}, "field 'resample': got 9, expected a whole number from 0 to 5 or null"),
        ({"default_to_square": 1}, "field 'default_to_square': got 1, expected true or false"),
        ([], "preprocessor_config.json: got \\[\\], expected an object"),
    ):
        with pytest.raises(ConfigError, match=message):
            FeatureExtractor.from_config(config)
    with pytest.raises(InputError, match="image: got 2 x 9000 pixels, expected sides more alike; crop it"):
        FeatureExtractor()([Image.new("RGB", (2, 9000))])
