"""Image variation against diffusers' own: latents after every step, the image, and what is refused."""

import numpy as np
import pytest
import torch
from device_precisions import requires_precision
from PIL import Image
from pipeline_harness import TOLERANCE, as_array, diffusers_pipeline

from diffoundry.exporter.reference.calls import call_pipeline
from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

CLASS = "StableDiffusionImageVariationPipeline"


@pytest.fixture(scope="module")
def theirs(tiny_sd_checkpoint):
    return diffusers_pipeline(tiny_sd_checkpoint("variation"), CLASS)


@pytest.fixture(scope="module")
def ours(wide_bundle):
    return load(wide_bundle("variation"))


def image(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def follow(ours, theirs, image, seed=0, tolerance=TOLERANCE, **arguments):
    """Our run beside diffusers'; gives the flags, which are equal too."""
    latents = []
    seeds = seed if isinstance(seed, list) else [seed]
    generators = [torch.Generator().manual_seed(value) for value in seeds]
    expected = call_pipeline(
        theirs,
        "",
        lambda _index, _timestep, values: latents.append(values.numpy().copy()),
        image=torch.from_numpy(image) if isinstance(image, np.ndarray) else image,
        generator=generators if isinstance(seed, list) else generators[0],
        **{"output_type": "np", **arguments},
    )
    run = ours.start(image=image, seed=seed, **{"output_type": "np", **arguments})
    for step, wanted in zip(run, latents, strict=True):
        error = np.abs(step.latents - wanted).max() / max(1.0, np.abs(wanted).max())
        assert error < tolerance, f"step {step.index}: {error}"
    result = run.finish()
    assert result.nsfw_content_detected == expected.nsfw_content_detected
    np.testing.assert_allclose(as_array(result.images), as_array(expected.images), atol=max(2e-3, 20 * tolerance))
    return result.nsfw_content_detected


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_inference_steps": 4},
        {"num_inference_steps": 3, "guidance_scale": 1.0},
        {"num_inference_steps": 3, "guidance_scale": 3.0, "num_images_per_prompt": 2, "seed": [1, 2]},
        {"num_inference_steps": 2, "height": 72, "width": 48},
    ],
    ids=lambda arguments: " ".join(f"{key}={value}" for key, value in arguments.items()),
)
def test_every_step_is_diffusers(ours, theirs, arguments):
    follow(ours, theirs, image(90, 61), **arguments)


def test_several_images_of_any_size(ours, theirs):
    several = [image(40, 90), image(64, 64, seed=1), Image.linear_gradient("L")]
    follow(ours, theirs, several, num_inference_steps=2)
    follow(ours, theirs, several[:2], num_inference_steps=2, num_images_per_prompt=2, seed=[3, 4, 5, 6])


def test_prepared_pixels(ours, theirs):
    pixels = np.random.default_rng(5).standard_normal((2, 3, 32, 32)).astype(np.float32)
    follow(ours, theirs, pixels, num_inference_steps=2)


def test_the_image_counts_and_flags_are_diffusers(ours, theirs):
    first, second = (
        ours(image=image(64, 64, seed), seed=0, num_inference_steps=2, output_type="latent").images for seed in (0, 1)
    )
    assert np.abs(first - second).max() > 1e-3
    flags = [follow(ours, theirs, image(64, 64), seed=seed, num_inference_steps=2)[0] for seed in range(6)]
    assert set(flags) == {True, False}
    ours.safety_checker, checker = None, ours.safety_checker
    assert ours(image=image(64, 64), seed=0, num_inference_steps=2).nsfw_content_detected is None
    ours.safety_checker = checker


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_other_engines(wide_bundle, theirs, target, precision):
    """fp16 leaves 1e-3 to 1e-2 on latents of random networks; a wrong condition moves them by 0.1 and more."""
    requires_precision(target, precision)
    pipe = load(wide_bundle("variation"), target=target, precision=precision, safety_checker=None)
    theirs.safety_checker, checker = None, theirs.safety_checker
    try:
        tolerance = TOLERANCE if precision == "fp32" else 0.03
        follow(pipe, theirs, image(90, 61), num_inference_steps=3, tolerance=tolerance)
    finally:
        theirs.safety_checker = checker


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": None}, "image: got none, expected an image: variations of it are what this checkpoint generates"),
        ({"prompt": "a cat"}, "prompt: got 'a cat', expected none: this checkpoint generates variations of an image"),
        (
            {"negative_prompt": "blue"},
            "negative_prompt: got 'blue', expected none: this checkpoint generates variations",
        ),
        ({"image": "x.png"}, "image: got str, expected a PIL image"),
        ({"image": []}, "image: got an empty list, expected at least one image"),
        ({"image": Image.new("RGBA", (9, 9))}, "image: got an image with transparency, expected one without"),
        ({"image": Image.new("I;16", (9, 9))}, "image: got the PIL mode 'I;16', expected 8 bits a channel"),
        ({"image": np.zeros((32, 32, 3), np.float32)}, r"image: got an array of float32 \(32, 32, 3\), expected PIL"),
        ({"image": [np.zeros((3, 32, 32))]}, "image: got a list of arrays, expected PIL images, or one array"),
        ({"image": np.zeros((1, 3, 16, 16), np.float32)}, r"pixel_values.*\(1, 3, 16, 16\)"),
        ({"strength": 0.5}, "strength: no such argument, expected one of "),
        ({"mask_image": Image.new("L", (9, 9))}, "mask_image: no such argument, expected one of"),
    ],
)
def test_wrong_arguments_are_named(ours, arguments, message):
    with pytest.raises(InputError, match=message):
        ours(**{"image": image(32, 32), "seed": 0, "num_inference_steps": 1, **arguments})


def test_it_has_no_use_for_an_embedding(ours, tmp_path):
    with pytest.raises(InputError, match="textual inversion: this checkpoint has no CLIP text encoder"):
        ours.embeddings.load(tmp_path / "cat.safetensors")
