"""Image to image against diffusers' own: latents after every step, the image, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

CLASS = "StableDiffusionImg2ImgPipeline"


@pytest.fixture(scope="module")
def theirs(emoji_folder):
    return diffusers_pipeline(emoji_folder, CLASS)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_inference_steps": 10},
        {"num_inference_steps": 10, "strength": 0.35, "guidance_scale": 3.0, "negative_prompt": "blue"},
        {"num_inference_steps": 4, "strength": 1.0, "guidance_scale": 1.0},
        {"num_inference_steps": 6, "eta": 0.7},
        {"num_inference_steps": 5, "num_images_per_prompt": 2},
    ],
    ids=lambda arguments: " ".join(f"{key}={value}" for key, value in arguments.items()),
)
def test_every_step_is_diffusers(emoji, theirs, apple, arguments):
    compare(emoji, theirs, "a green apple", image=apple, **arguments)


@pytest.mark.slow
def test_every_step_is_diffusers_on_openvino(emoji_openvino, theirs, apple):
    compare(emoji_openvino, theirs, "a green apple", image=apple, num_inference_steps=6)


def test_several_images_prompts_and_seeds(emoji, theirs, apple):
    images = [apple, Image.effect_noise((64, 64), 90).convert("RGB")]
    settings = {"num_inference_steps": 5, "num_images_per_prompt": 2}
    compare(emoji, theirs, ["a green apple", "a cat face"], image=images, **settings)
    compare(emoji, theirs, ["a green apple", "a cat face"], image=images, seed=[1, 2, 3, 4], **settings)
    compare(emoji, theirs, ["a green apple", "a cat face"], image=apple, seed=[5, 6], num_inference_steps=5)


def test_arrays_tensors_and_latents(emoji, theirs, apple):
    pixels = np.asarray(apple, np.float32)[None] / 255
    compare(emoji, theirs, "a fish", image=pixels, num_inference_steps=5)
    compare(emoji, theirs, "a fish", image=torch.from_numpy(pixels.transpose(0, 3, 1, 2)), num_inference_steps=5)
    latents = emoji("a fish", seed=1, num_inference_steps=3, output_type="latent").images
    compare(emoji, theirs, "a cat", image=latents, num_inference_steps=5)
    compare(emoji, theirs, "a cat", image=torch.from_numpy(latents), num_inference_steps=5)


@pytest.mark.slow_cases("LCM", "Heun*", "EulerA*")
@pytest.mark.parametrize("name", ["DPMSolverMultistep", "EulerAncestralDiscrete", "HeunDiscrete", "PNDM", "LCM"])
def test_schedulers_begin_in_the_middle(emoji, emoji_folder, apple, name):
    theirs = diffusers_pipeline(emoji_folder, CLASS)
    import diffusers

    theirs.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(theirs.scheduler.config)
    arguments = {"image": apple, "strength": 0.6, "num_inference_steps": 8}
    compare(emoji, theirs, "a rocket", ours_only={"scheduler": name}, **arguments)


@pytest.mark.parametrize("variant", ["sd1", "sd2"])
def test_other_architectures_and_sizes(exported, tiny_sd_checkpoint, variant, apple):
    folder = tiny_sd_checkpoint(variant)
    image = apple.resize((72, 56))
    compare(load(exported(folder)), diffusers_pipeline(folder, CLASS), "anything", image=image, num_inference_steps=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 0.0}, "strength: got 0.0, expected a number above 0 and at most 1"),
        ({"strength": 1.2}, "strength: got 1.2, expected a number above 0 and at most 1"),
        (
            {"strength": 0.1, "num_inference_steps": 5},
            "strength: got 0.1 of 5 steps, which leaves none; expected at least 0.2, or more steps",
        ),
        ({"image": Image.new("RGB", (60, 64))}, "image: got 60 x 64 pixels, expected multiples of 8; resize or crop"),
        ({"image": Image.new("RGBA", (64, 64))}, "image: got an image with transparency, expected one without"),
        ({"image": []}, "image: got no image, expected images of one size"),
        ({"image": "apple.png"}, "image: got str, expected a PIL image or an array"),
        (
            {"image": [Image.new("RGB", (64, 64)), Image.new("RGB", (72, 64))]},
            "image: got 64 x 64, 72 x 64, expected images of one size",
        ),
        ({"image": [Image.new("RGB", (64, 64))] * 2}, "image: got 2 for 1 images, expected one, or a number that"),
        ({"image": np.zeros((64, 64, 3), np.uint8)}, "image: got an array of uint8, expected floats in 0..1"),
        ({"height": 72}, "height: got 72, expected the image's 64; leave it out, or resize the image"),
        ({"latents": np.zeros((1, 4, 8, 8), np.float32)}, "latents and image: got both, expected one of them"),
        ({"denoising_start": 1.0}, "denoising_start: got 1.0, expected a number above 0 and below 1"),
        ({"denoising_start": 0.999, "num_inference_steps": 3}, "denoising_start: got 0.999, which leaves no step"),
        (
            {"mask": 1},
            "mask: no such argument, expected one of adapter_conditioning_factor, .*, denoising_end, denoising_start, ",
        ),
    ],
)
def test_wrong_arguments_are_named(emoji, apple, arguments, message):
    with pytest.raises(InputError, match=message):
        emoji("x", **{"image": apple, "seed": 0, **arguments})
