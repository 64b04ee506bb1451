"""The x2 upscaler of latents against diffusers, after every step."""

import numpy as np
import pytest
import torch
from PIL.Image import fromarray
from system_pair import compare_system, open_theirs
from upscaler_checkpoint import make_latent_upscaler

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

pytestmark = pytest.mark.slow

PIPELINE = "StableDiffusionLatentUpscalePipeline"


@pytest.fixture(scope="module")
def checkpoint(system_checkpoint):
    return system_checkpoint("latent-upscaler", make_latent_upscaler)


@pytest.fixture(scope="module")
def bundle(exported, checkpoint):
    return exported(checkpoint, target="onnxruntime,openvino")


@pytest.fixture(scope="module")
def theirs(checkpoint):
    return open_theirs(checkpoint, PIPELINE)


def image(width=24, height=16, seed=0):
    return fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


LATENTS = np.random.default_rng(1).standard_normal((1, 4, 12, 8)).astype(np.float32)

CASES = {
    "defaults": {"prompt": "a red apple", "image": image()},
    "no guidance": {"prompt": "a red apple", "image": image(), "guidance_scale": 1.0},
    "no prompt": {"prompt": "a red apple", "image": image(), "guidance_scale": 0.0},
    "several": {
        "prompt": ["a red apple", "a cat"], "image": [image(16, 24), image(16, 24, seed=1)],
        "negative_prompt": ["blue", "green"],
    },
}  # fmt: skip


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(bundle, theirs, target):
    ours = load(bundle, target=target)
    for name, arguments in CASES.items():
        images = compare_system(ours, theirs, num_inference_steps=3, **arguments)
        first = arguments["image"][0] if isinstance(arguments["image"], list) else arguments["image"]
        assert images.shape[1:3] == (first.height * 2, first.width * 2), name
    prompt, rest = "a cat", {"num_inference_steps": 3}
    latents = {"ours_only": {"image": LATENTS}, "theirs_only": {"image": torch.from_numpy(LATENTS)}}
    assert compare_system(ours, theirs, prompt=prompt, **latents, **rest).shape == (1, 48, 32, 3)


ERRORS = {
    "no image": ({}, "image: got none, expected the image to enlarge"),
    "an odd size": ({"image": image(15, 16)}, "image: got 15 x 16 pixels, expected multiples of 2"),
    "a size of no engine": (
        {"image": image(30, 16)},
        "image: got 30 x 16 pixels, enlarged 60 x 32, expected a multiple of 16: the sizes that",
    ),
    "too small": ({"image": image(8, 16)}, "image: got 8 x 16 pixels, enlarged 16 x 32, expected 32 to any size"),
    "two images": ({"image": [image(), image()]}, "image: got 2 for 1 prompts, expected one for each"),
    "another scheduler": ({"image": image(), "scheduler": "ddim"}, "expected EulerDiscreteScheduler"),
    "no guidance scale": ({"image": image(), "guidance_scale": -1.0}, "guidance_scale: got -1.0"),
    "half an embedding": (
        {"image": image(), "negative_prompt_embeds": np.zeros((1, 77, 32), np.float32)},
        "negative_prompt_embeds and negative_pooled_prompt_embeds: got one of them",
    ),
    "images of each prompt": ({"image": image(), "num_images_per_prompt": 2}, "num_images_per_prompt"),
}


def test_wrong_arguments_are_refused(bundle):
    ours = load(bundle)
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours("a cat", num_inference_steps=2, **arguments)
