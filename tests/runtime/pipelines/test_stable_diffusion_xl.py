"""Stable Diffusion XL, its refiner and its tasks against diffusers' own, on tiny random checkpoints."""

import numpy as np
import pytest
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

TEXT, IMAGE, INPAINT = (f"StableDiffusionXL{kind}Pipeline" for kind in ("", "Img2Img", "Inpaint"))

MASK = Image.new("L", (64, 64))
MASK.paste(255, (16, 8, 47, 53))


@pytest.fixture(scope="module")
def base(tiny_sd_checkpoint):
    return tiny_sd_checkpoint("xl")


@pytest.fixture(scope="module")
def xl(exported, base):
    return load(exported(base))


@pytest.fixture(scope="module")
def theirs(base):
    """diffusers' pipelines of the checkpoint, by class."""
    return {name: diffusers_pipeline(base, name) for name in (TEXT, IMAGE, INPAINT)}


@pytest.fixture(scope="module")
def refiner(exported, tiny_sd_checkpoint):
    folder = tiny_sd_checkpoint("xl-refiner")
    return load(exported(folder)), diffusers_pipeline(folder, IMAGE)


NEGATIVE_SIZES = {"negative_original_size": (24, 32), "negative_target_size": (80, 72)}


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_inference_steps": 10},
        {"num_inference_steps": 4, "guidance_scale": 0.0},
        {"num_inference_steps": 4, "height": 72, "width": 56, "num_images_per_prompt": 2},
        {"num_inference_steps": 4, "negative_prompt": "blue", "guidance_rescale": 0.7},
        {"num_inference_steps": 4, "prompt_2": "a cat", "negative_prompt": "", "negative_prompt_2": "blue"},
        {"num_inference_steps": 4, "original_size": (48, 32), "crops_coords_top_left": (8, 4), "target_size": (72, 80)},
        {"num_inference_steps": 4, **NEGATIVE_SIZES, "negative_crops_coords_top_left": (4, 2)},
        {"num_inference_steps": 4, **NEGATIVE_SIZES, "num_images_per_prompt": 3},
        {"num_inference_steps": 4, **NEGATIVE_SIZES, "num_images_per_prompt": 3, "guidance_scale": 1.0},
        {"num_inference_steps": 4, "clip_skip": 1, "negative_prompt": "blue"},
        {"num_inference_steps": 10, "denoising_end": 0.6},
    ],
    ids=lambda arguments: " ".join(f"{key}={value}" for key, value in arguments.items()),
)
def test_every_step_is_diffusers(xl, theirs, arguments):
    compare(xl, theirs[TEXT], "a red apple", **arguments)


def test_several_prompts_and_seeds(xl, theirs):
    arguments = {"negative_prompt": ["blue", ""], "prompt_2": ["a cat", "a dog"], "num_inference_steps": 4}
    compare(xl, theirs[TEXT], ["a red apple", "a cat face"], seed=[3, 4], **arguments)


@pytest.mark.slow
def test_every_step_is_diffusers_on_openvino(exported, base, theirs):
    compare(load(exported(base, target="openvino")), theirs[TEXT], "a red apple", num_inference_steps=5)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [5.0, 1.0])
def test_an_embedded_guidance_scale(exported, tiny_sd_checkpoint, scale):
    folder = tiny_sd_checkpoint("xl-distilled")
    ours = load(exported(folder))
    compare(ours, diffusers_pipeline(folder, TEXT), "a red apple", num_inference_steps=4, guidance_scale=scale)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_inference_steps": 10},
        {"num_inference_steps": 6, "strength": 0.8, "original_size": (48, 32), **NEGATIVE_SIZES},
        {"num_inference_steps": 6, "denoising_start": 0.5, "num_images_per_prompt": 2},
        {"num_inference_steps": 8, "denoising_start": 0.3, "denoising_end": 0.8},
    ],
    ids=lambda arguments: " ".join(f"{key}={value}" for key, value in arguments.items()),
)
def test_image_to_image(xl, theirs, apple, arguments):
    compare(xl, theirs[IMAGE], "a green apple", image=apple, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_inference_steps": 5},
        {"num_inference_steps": 5, "strength": 0.6, "num_images_per_prompt": 2},
        {"num_inference_steps": 6, "denoising_start": 0.4},
        {"num_inference_steps": 6, "denoising_end": 0.7},
        {"num_inference_steps": 4, "padding_mask_crop": 4, "output_type": "pil"},
    ],
    ids=lambda arguments: " ".join(f"{key}={value}" for key, value in arguments.items()),
)
def test_inpainting(xl, theirs, apple, arguments):
    compare(xl, theirs[INPAINT], "a green apple", image=apple, mask_image=MASK, **arguments)


@pytest.mark.slow
def test_inpainting_with_nine_channels(exported, tiny_sd_checkpoint, apple):
    folder = tiny_sd_checkpoint("xl-inpaint")
    arguments = {"image": apple, "mask_image": MASK, "num_inference_steps": 5}
    compare(load(exported(folder)), diffusers_pipeline(folder, INPAINT), "a green apple", **arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"num_inference_steps": 8},
        {"num_inference_steps": 6, "strength": 0.7, "aesthetic_score": 7.0, "negative_aesthetic_score": 1.0},
        {"num_inference_steps": 6, "negative_original_size": (32, 24), "negative_crops_coords_top_left": (4, 8)},
    ],
    ids=lambda arguments: " ".join(f"{key}={value}" for key, value in arguments.items()),
)
def test_the_refiner(refiner, apple, arguments):
    compare(*refiner, "a green apple", image=apple, **arguments)


@pytest.mark.slow
def test_the_refiner_goes_on_where_the_base_stopped(xl, theirs, refiner):
    arguments = {"num_inference_steps": 8, "output_type": "latent"}
    latents = xl("a red apple", seed=1, denoising_end=0.5, **arguments).images
    expected = theirs[TEXT]("a red apple", latents=None, **_seeded(1), denoising_end=0.5, **arguments).images.numpy()
    np.testing.assert_allclose(latents, expected, atol=1e-4 * np.abs(expected).max())
    compare(*refiner, "a red apple", image=expected, denoising_start=0.5, num_inference_steps=8)


def _seeded(seed):
    import torch

    return {"generator": torch.Generator().manual_seed(seed)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_2": ["a", "b"]}, "prompt_2: got 2 entries, expected a string or 1 of them"),
        (
            {"negative_prompt_2": "blue"},
            "negative_prompt_2 needs negative_prompt: without it this checkpoint ignores",
        ),
        ({"original_size": (64,)}, r"original_size: got \(64,\), expected two whole numbers of at least 0"),
        ({"negative_target_size": (64, -1)}, "negative_target_size: got .* expected two whole numbers"),
        ({"negative_target_size": (64, 64)}, "negative_original_size and negative_target_size: got one of them"),
        (
            {"negative_crops_coords_top_left": (1, 1)},
            r"negative_crops_coords_top_left: got \(1, 1\), which is not used",
        ),
        ({"aesthetic_score": 7.0}, "aesthetic_score: got 7.0, which is not used here; leave it out"),
        ({"aesthetic_score": "high"}, "aesthetic_score: got 'high', expected a number such as 6"),
    ],
)
def test_wrong_arguments_are_named(xl, arguments, message):
    with pytest.raises(InputError, match=message):
        xl("x", seed=0, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": None}, "image: got none, expected image: image to image is what this checkpoint does"),
        ({"prompt_2": "cat"}, "prompt_2: this checkpoint has only one text encoder; leave it out"),
        ({"target_size": (8, 8)}, r"target_size: got \(8, 8\), which is not used here; leave it out"),
    ],
)
def test_what_a_refiner_refuses(refiner, apple, arguments, message):
    with pytest.raises(InputError, match=message):
        refiner[0]("x", **{"image": apple, "seed": 0, **arguments})


def test_stable_diffusion_takes_no_sizes(emoji):
    with pytest.raises(InputError, match="prompt_2: no such argument"):
        emoji("x", prompt_2="y")
