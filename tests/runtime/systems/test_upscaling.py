"""The x4 upscaler against diffusers, after every step."""

import numpy as np
import pytest
from PIL.Image import fromarray
from system_pair import compare_system, open_theirs
from upscaler_checkpoint import make_upscaler

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

pytestmark = pytest.mark.slow

PIPELINE = "StableDiffusionUpscalePipeline"


@pytest.fixture(scope="module")
def checkpoint(system_checkpoint):
    return system_checkpoint("upscaler", make_upscaler)


@pytest.fixture(scope="module")
def bundle(exported, checkpoint):
    return exported(checkpoint, target="onnxruntime,openvino")


@pytest.fixture(scope="module")
def theirs(checkpoint):
    return open_theirs(checkpoint, PIPELINE)


def image(width=16, height=12, seed=0):
    return fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


CASES = {
    "defaults": {"prompt": "a red apple", "image": image()},
    "no guidance": {"prompt": "a red apple", "image": image(), "guidance_scale": 1.0, "noise_level": 0},
    "several": {
        "prompt": ["a red apple", "a cat"], "image": [image(20, 12), image(20, 12, seed=1)],
        "num_images_per_prompt": 2, "negative_prompt": ["blue", "green"], "noise_level": 350,
    },
    "several of one": {"prompt": "a cat", "image": image(), "num_images_per_prompt": 2, "eta": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(bundle, theirs, target):
    ours = load(bundle, target=target)
    for name, arguments in CASES.items():
        images = compare_system(ours, theirs, num_inference_steps=3, **arguments)
        first = arguments["image"][0] if isinstance(arguments["image"], list) else arguments["image"]
        assert images.shape[1:3] == (first.height * 4, first.width * 4), name


def test_defaults_are_those_of_the_class(bundle):
    arguments = load(bundle).start("a cat", image=image()).arguments
    assert {name: arguments[name] for name in ("num_inference_steps", "guidance_scale", "noise_level")} == {
        "num_inference_steps": 75, "guidance_scale": 9.0, "noise_level": 20,
    }  # fmt: skip


ERRORS = {
    "no image": ({}, "image: got none, expected image: upscaling is what this checkpoint does"),
    "a level above the largest": ({"image": image(), "noise_level": 351}, "noise_level: got 351, expected at most 350"),
    "a level below none": ({"image": image(), "noise_level": -1}, "noise_level: got -1, expected"),
    "half a level": ({"image": image(), "noise_level": 2.5}, "noise_level: got 2.5, expected"),
    "an odd size": ({"image": image(18, 12)}, "image: got 18 x 12 pixels, expected multiples of 4"),
    "another size": ({"image": image(), "height": 64}, "height: got 64, expected 48, 4 times that of the image"),
    "a strength": ({"image": image(), "strength": 0.5}, "strength"),
}


def test_wrong_arguments_are_refused(bundle):
    ours = load(bundle)
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours("a cat", num_inference_steps=2, **arguments)
