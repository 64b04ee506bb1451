"""Inpainting against diffusers' own, with UNets of four and nine channels: every step, the image, what is refused."""

import diffusers
import numpy as np
import pytest
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

CLASS = "StableDiffusionInpaintPipeline"


def mask_of(width=64, height=64, box=(16, 8, 47, 53)):
    mask = Image.new("L", (width, height))
    mask.paste(255, box)
    return mask


MASK = mask_of()


@pytest.fixture(scope="module")
def theirs(emoji_folder):
    return diffusers_pipeline(emoji_folder, CLASS)


@pytest.fixture(scope="module")
def nine(exported, tiny_sd_checkpoint):
    """A bundle with a UNet of nine channels, and diffusers' pipeline of it."""
    folder = tiny_sd_checkpoint("inpaint")
    return load(exported(folder)), diffusers_pipeline(folder, CLASS)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_inference_steps": 8},
        {"num_inference_steps": 8, "strength": 0.5, "guidance_scale": 3.0, "negative_prompt": "blue"},
        {"num_inference_steps": 5, "guidance_scale": 1.0, "eta": 0.9},
        {"num_inference_steps": 4, "num_images_per_prompt": 2, "strength": 0.99},
        {"num_inference_steps": 4, "height": 72, "width": 80},
    ],
    ids=lambda arguments: " ".join(f"{key}={value}" for key, value in arguments.items()),
)
@pytest.mark.parametrize("channels", [4, 9])
def test_every_step_is_diffusers(emoji, theirs, nine, apple, channels, arguments):
    pair = (emoji, theirs) if channels == 4 else nine
    compare(*pair, "a green apple", image=apple, mask_image=MASK, **arguments)


@pytest.mark.slow
def test_every_step_is_diffusers_on_openvino(emoji_openvino, theirs, exported, tiny_sd_checkpoint, nine, apple):
    arguments = {"image": apple, "mask_image": MASK, "num_inference_steps": 5}
    compare(emoji_openvino, theirs, "a green apple", **arguments)
    compare(load(exported(tiny_sd_checkpoint("inpaint"), target="openvino")), nine[1], "a green apple", **arguments)


@pytest.mark.parametrize("channels", [4, 9])
def test_several_images_masks_and_seeds(emoji, theirs, nine, apple, channels):
    pair = (emoji, theirs) if channels == 4 else nine
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    masks = [MASK, mask_of(box=(0, 0, 20, 64))]
    prompts = ["a green apple", "a cat face"]
    compare(*pair, prompts, image=[apple, noise], mask_image=masks, num_inference_steps=4)
    compare(*pair, prompts, image=[apple, noise], mask_image=MASK, strength=0.7, seed=[1, 2], num_inference_steps=4)
    compare(*pair, prompts, image=apple, mask_image=MASK, seed=[3, 4], strength=0.7, num_inference_steps=4)


@pytest.mark.parametrize("channels", [4, 9])
def test_only_what_the_mask_covers(emoji, theirs, nine, apple, channels):
    pair = (emoji, theirs) if channels == 4 else nine
    image = apple.resize((150, 110))
    mask = mask_of(150, 110, box=(60, 20, 100, 50))
    arguments = {"image": image, "mask_image": mask, "padding_mask_crop": 8, "output_type": "pil"}
    _, images = compare(*pair, "a green apple", num_inference_steps=4, **arguments)
    outside = np.asarray(mask) == 0
    np.testing.assert_array_equal(images[0][outside], np.asarray(image)[outside])


@pytest.mark.parametrize("name", ["EulerAncestralDiscrete", "DPMSolverMultistep", "PNDM"])
def test_schedulers_put_back_what_is_kept(emoji, emoji_folder, apple, name):
    theirs = diffusers_pipeline(emoji_folder, CLASS)
    theirs.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(theirs.scheduler.config)
    arguments = {"image": apple, "mask_image": MASK, "strength": 0.8, "num_inference_steps": 6}
    compare(emoji, theirs, "a rocket", ours_only={"scheduler": name}, **arguments)


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_latents_in_place_of_what_is_kept(exported, tiny_sd_checkpoint, nine, apple, target):
    ours = load(exported(tiny_sd_checkpoint("inpaint"), target=target))
    latents = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    arguments = {"image": apple, "mask_image": MASK, "num_inference_steps": 4, "num_images_per_prompt": 2}
    _, given = compare(ours, nine[1], "a green apple", **arguments, masked_image_latents=latents)
    assert np.abs(given - ours("a green apple", seed=0, **arguments, output_type="np").images).max() > 1e-2


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (np.zeros((1, 4, 4, 4), np.float32), r"got shape \(1, 4, 4, 4\), expected floats \(1 or more, 4, 8, 8\)"),
        ([0.5], "masked_image_latents: got list, expected a NumPy array of floats"),
        (np.zeros((2, 4, 8, 8), np.float32), "masked_image_latents: got 2 for 1 images"),
    ],
)
def test_latents_that_do_not_fit_are_named(nine, apple, latents, message):
    with pytest.raises(InputError, match=message):
        nine[0]("x", image=apple, mask_image=MASK, seed=0, masked_image_latents=latents)


def test_a_checkpoint_of_nine_channels_says_what_it_needs(nine):
    assert nine[0].default_task.name == "inpainting"
    with pytest.raises(InputError, match="image: got none, expected image and mask_image: inpainting is what this"):
        nine[0]("x")
    with pytest.raises(InputError, match="mask_image: got none, expected image and mask_image"):
        nine[0]("x", image=Image.new("RGB", (64, 64)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"mask_image": Image.new("L", (56, 64))},
            "mask_image: got 56 x 64 pixels, expected the image's 64 x 64",
        ),
        ({"mask_image": np.zeros((64, 72), np.float32)}, "mask_image: got 72 x 64 pixels, expected the image's"),
        (
            {"image": Image.new("RGB", (72, 64)), "mask_image": Image.new("L", (72, 64))},
            "image: got 72 x 64 pixels, expected 64 x 64, the size that is generated; resize it, or pass height and",
        ),
        ({"mask_image": Image.new("LA", (64, 64))}, "mask_image: got an image with transparency"),
        ({"mask_image": [MASK] * 2, "image": [Image.new("RGB", (64, 64))] * 3}, "mask_image: got 2 for 3 images"),
        ({"strength": 2}, "strength: got 2, expected a number above 0 and at most 1"),
        ({"padding_mask_crop": -1}, "padding_mask_crop: got -1, expected a whole number of at least 0"),
        ({"padding_mask_crop": 4, "output_type": "np"}, "output_type: got 'np' with padding_mask_crop, expected 'pil'"),
        (
            {"padding_mask_crop": 4, "mask_image": np.zeros((64, 64), np.float32)},
            "mask_image: got ndarray with padding_mask_crop, expected a single PIL image",
        ),
        ({"padding_mask_crop": 4, "mask_image": Image.new("L", (64, 64))}, "mask_image: got a black one"),
        (
            {"denoising_start": 0.5, "latents": np.zeros((1, 4, 8, 8), np.float32)},
            "latents and denoising_start: got both, expected one of them",
        ),
        (
            {"masked_image_latents": np.zeros((1, 4, 8, 8), np.float32)},
            "masked_image_latents: this checkpoint's denoiser does not take them, only one made for inpainting",
        ),
    ],
)
def test_wrong_arguments_are_named(emoji, apple, arguments, message):
    with pytest.raises(InputError, match=message):
        emoji("x", **{"image": apple, "mask_image": MASK, "seed": 0, **arguments})


def test_without_an_image_there_is_no_mask(emoji):
    with pytest.raises(InputError, match="mask_image: text to image has no such argument; pass image and mask_image"):
        emoji("x", mask_image=MASK)
