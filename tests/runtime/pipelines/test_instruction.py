"""InstructPix2Pix against diffusers' own, on a tiny random checkpoint of eight channels."""

import pytest
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError


@pytest.fixture(scope="module")
def folder(tiny_sd_checkpoint):
    return tiny_sd_checkpoint("instruct")


@pytest.fixture(scope="module")
def ours(exported, folder):
    return load(exported(folder))


@pytest.fixture(scope="module")
def theirs(folder):
    return diffusers_pipeline(folder, "StableDiffusionInstructPix2PixPipeline")


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_inference_steps": 8},
        {"num_inference_steps": 5, "image_guidance_scale": 2.5, "guidance_scale": 3.0, "negative_prompt": "blue"},
        {"num_inference_steps": 5, "image_guidance_scale": 0.5},
        {"num_inference_steps": 5, "guidance_scale": 1.0},
        {"num_inference_steps": 4, "num_images_per_prompt": 2},
    ],
    ids=lambda arguments: " ".join(f"{key}={value}" for key, value in arguments.items()),
)
def test_every_step_is_diffusers(ours, theirs, apple, arguments):
    compare(ours, theirs, "make it green", image=apple, **arguments)


@pytest.mark.slow
def test_every_step_is_diffusers_on_openvino(exported, folder, theirs, apple):
    ours = load(exported(folder, target="openvino"))
    compare(ours, theirs, "make it green", image=apple, num_inference_steps=5)


@pytest.mark.slow
def test_every_step_of_stable_diffusion_xl_is_diffusers(exported, tiny_sd_checkpoint, apple):
    folder = tiny_sd_checkpoint("xl-instruct")
    bundle = exported(folder, target="onnxruntime,openvino")
    theirs = diffusers_pipeline(folder, "StableDiffusionXLInstructPix2PixPipeline")
    for target in ("onnxruntime", "openvino"):
        ours, size = load(bundle, target=target), {"height": apple.height, "width": apple.width}
        for arguments in (
            {"num_inference_steps": 5, "guidance_rescale": 0.7, "negative_prompt": "blue"},
            {"num_inference_steps": 4, "num_images_per_prompt": 2, "image_guidance_scale": 2.5},
            {"num_inference_steps": 4, "guidance_scale": 1.0},
        ):
            compare(ours, theirs, "make it green", image=apple, **size, **arguments)


def test_several_images_prompts_and_seeds(ours, theirs, apple):
    images = [apple.resize((72, 56)), Image.effect_noise((72, 56), 90).convert("RGB")]
    compare(ours, theirs, ["make it green", "a fox"], image=images, seed=[1, 2], num_inference_steps=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"image": None},
            "image: got none, expected image: changing an image by instruction is what this checkpoint does",
        ),
        ({"image_guidance_scale": -1.0}, "image_guidance_scale: got -1.0, expected a number of at least 0"),
        ({"guidance_rescale": 0.5}, "guidance_rescale: got 0.5, expected 0: it is for guidance by text alone"),
        ({"image": Image.new("RGB", (63, 64))}, "image: got 63 x 64 pixels, expected multiples of 8"),
        ({"strength": 0.5}, "strength: no such argument, expected one of"),
    ],
)
def test_wrong_arguments_are_named(ours, apple, arguments, message):
    with pytest.raises(InputError, match=message):
        ours("x", **{"image": apple, "seed": 0, **arguments})
