"""T2I-Adapters beside diffusers' pipelines: the latents after every step, on tiny random checkpoints."""

import diffusers
import numpy as np
import pytest
import torch
from idle_calls import assert_idle_inputs_are_zeros
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

PROMPT = "a red apple"
PAIR = ["a red apple", "an umbrella with rain drops"]

CLASSES = {"xl-three": "StableDiffusionXLAdapterPipeline"}


def image(height=40, width=56, seed=0, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


class Renamed:
    """Our pipeline, taking the image for adapters under diffusers' name."""

    def __init__(self, pipe):
        self.pipe = pipe

    def start(self, prompt, image, **arguments):
        return self.pipe.start(prompt, adapter_image=image, **arguments)


@pytest.fixture(scope="module")
def adapted(adapted_bundle, tiny_sd_checkpoint, tiny_t2i_adapter):
    """Factory: our pipeline and diffusers', of a base checkpoint with T2I-Adapters."""
    made = {}

    def make(base="sd1-small", kinds=("full", "grey"), target="onnxruntime"):
        if (base, kinds, target) not in made:
            models = [diffusers.T2IAdapter.from_pretrained(tiny_t2i_adapter(base, kind)) for kind in kinds]
            theirs = diffusers_pipeline(
                tiny_sd_checkpoint(base),
                CLASSES.get(base, "StableDiffusionAdapterPipeline"),
                adapter=models if len(models) > 1 else models[0],
            )
            made[base, kinds, target] = Renamed(load(adapted_bundle(base, kinds), target=target)), theirs
        return made[base, kinds, target]

    return make


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_the_latents_of_diffusers(adapted, target):
    images = [image(), image(seed=1, mode="L")]
    cases = [
        {"adapter_conditioning_scale": [0.5, 0.5], "negative_prompt": "blurry"},
        {"adapter_conditioning_scale": [0.9, 0.3], "guidance_scale": 1.0},
        {"adapter_conditioning_scale": [1.0, 1.0], "num_images_per_prompt": 2, "height": 32, "width": 48},
    ]
    for case in cases if target == "onnxruntime" else cases[:1]:
        compare(*adapted(target=target), PROMPT, image=images, num_inference_steps=2, **case)
    assert_idle_inputs_are_zeros(adapted(target=target)[0].pipe, {"adapter_image": images}, height=40, width=56)


def test_images_for_each_prompt_and_arrays(adapted):
    """diffusers repeats the features of several prompts in turns, and takes tensors as they are."""
    grey = torch.rand((2, 1, 32, 48), generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = [[image(32, 48), image(32, 48, 3)], grey]
    scales = {"adapter_conditioning_scale": [0.6, 0.4]}
    compare(
        *adapted(), PAIR, image=images, num_inference_steps=1, height=32, width=48, num_images_per_prompt=2, **scales
    )


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_the_latents_of_diffusers_xl(adapted, target):
    pair = adapted("xl-three", ("xl",), target)
    steps = {"num_inference_steps": 4}
    compare(*pair, PROMPT, image=image(96, 112), **steps)
    compare(*pair, PROMPT, image=image(96, 112), adapter_conditioning_factor=0.5, denoising_end=0.8, **steps)
    compare(*pair, PROMPT, image=image(70, 81), adapter_conditioning_scale=0.7, guidance_scale=1.0, **steps)
    compare(*pair, PAIR, image=[image(96, 80), image(96, 80, 2)], num_images_per_prompt=2, negative_prompt="blurry")


@pytest.mark.slow
def test_one_adapter_of_the_small_build(adapted):
    """Sides that do not halve evenly."""
    compare(*adapted("sd1", ("light",)), PROMPT, image=image(72, 88), num_inference_steps=3)


def latents(pipe, **arguments):
    steps = {"num_inference_steps": 2, "seed": 0, "height": 40, "width": 56, "output_type": "latent"}
    return pipe(PROMPT, **{**steps, **arguments}).images


def test_several_share_alike_by_default(adapted):
    ours, images = adapted()[0].pipe, [image(), image(seed=1)]
    halves = latents(ours, adapter_image=images, adapter_conditioning_scale=0.5)
    np.testing.assert_array_equal(latents(ours, adapter_image=images), halves)


def test_without_an_image_or_at_scale_0_it_generates_as_without_adapters(adapted, exported, tiny_sd_checkpoint):
    ours = adapted()[0].pipe
    images = [image(), image(seed=1)]
    plain = latents(load(exported(tiny_sd_checkpoint("sd1-small"))))
    np.testing.assert_allclose(latents(ours), plain, atol=1e-5)
    np.testing.assert_allclose(latents(ours, adapter_image=images, adapter_conditioning_scale=0.0), plain, atol=1e-5)
    none = latents(ours, adapter_image=images, adapter_conditioning_factor=0.4)  # of 2 steps: none
    np.testing.assert_allclose(none, plain, atol=1e-5)
    assert np.abs(latents(ours, adapter_image=images) - plain).max() > 0.05


def test_adapters_run_once_an_image(adapted):
    pipe, calls = adapted()[0].pipe, []
    pipe.session.on_call = lambda name, *_: calls.append(name)
    try:
        latents(pipe, adapter_image=[image(), image()])
    finally:
        pipe.session.on_call = None
    assert [name for name in calls if name.startswith("adapter")] == ["adapter", "adapter_1"]


PAIR_OF_IMAGES = [image(), image(seed=1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"adapter_image": image()}, "adapter_image: got 1, expected a list of 2: one for each T2I-Adapter of this"),
        (
            {"adapter_image": [[image()] * 3, image()]},
            "adapter_image of T2I-Adapter 1: got 3 images for 1 prompts, expected one, or one for each",
        ),
        ({"adapter_image": [image(), "sketch.png"]}, "adapter_image: got str, expected a PIL image or an array"),
        (
            {"adapter_image": [image(), np.zeros((40, 56, 3), np.float32)]},
            r"adapter_image: got an array of float32 \(40, 56, 3\), expected floats \(40, 56, 1\): height and width",
        ),
        (
            {"adapter_image": [image(), np.full((40, 56, 1), np.nan, np.float32)]},
            "adapter_image: got NaN or infinity, expected finite numbers",
        ),
        (
            {"adapter_image": [image(), Image.new("RGBA", (56, 40), (0, 0, 0, 100))]},
            "adapter_image: got an image with transparency, expected one without",
        ),
        ({"adapter_conditioning_scale": 0.5}, "adapter_conditioning_scale needs adapter_image, an image for every"),
        (
            {"adapter_image": PAIR_OF_IMAGES, "adapter_conditioning_scale": [1.0]},
            "adapter_conditioning_scale: got 1 numbers, expected one, or 2: one for each T2I-Adapter",
        ),
        (
            {"adapter_image": PAIR_OF_IMAGES, "adapter_conditioning_scale": float("inf")},
            "adapter_conditioning_scale: got inf, expected a number",
        ),
        (
            {"adapter_image": PAIR_OF_IMAGES, "adapter_conditioning_factor": 1.5},
            "adapter_conditioning_factor: got 1.5, expected a number of at least 0 and at most 1",
        ),
        (
            {"adapter_image": PAIR_OF_IMAGES, "image": image(), "height": None, "width": None},
            "adapter_image: image to image has no T2I-Adapters; leave it out",
        ),
    ],
)
def test_what_does_not_fit_is_refused(adapted, arguments, message):
    with pytest.raises(InputError, match=message):
        latents(adapted()[0].pipe, **arguments)


def test_a_bundle_without_adapters_says_so(exported, tiny_sd_checkpoint):
    with pytest.raises(InputError, match="adapter_image: got one, but this bundle has no T2I-Adapter; export it with"):
        latents(load(exported(tiny_sd_checkpoint("sd1-small"))), adapter_image=image())
