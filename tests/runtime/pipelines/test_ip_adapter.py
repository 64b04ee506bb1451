"""IP-Adapters beside diffusers' pipelines: the latents after every step, on tiny random checkpoints."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from idle_calls import assert_idle_inputs_are_zeros
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.errors import BundleError, ConfigError, InputError
from diffoundry.runtime.models.image_projection import ImageProjection
from diffoundry.runtime.pipelines.input_shapes import shape_of_input

PROMPT = "a red apple"
PAIR = ["a red apple", "an umbrella with rain drops"]
SIZE = {"height": 40, "width": 56, "num_inference_steps": 2}


def image(height=40, width=50, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def mask(side, height=40, width=56):
    """White on one side."""
    across = np.mgrid[0:height, 0:width][1]
    return Image.fromarray(np.where((across > width // 3) == bool(side), 255, 0).astype(np.uint8))


class Reference:
    """diffusers' pipeline, with the scale and the masks as arguments of a call."""

    def __init__(self, pipe):
        self.pipe = pipe

    def __call__(self, prompt, *, callback_on_step_end, ip_adapter_scale=1.0, ip_adapter_masks=None, **arguments):
        adapters = len(self.pipe.unet.encoder_hid_proj.image_projection_layers)
        several = isinstance(ip_adapter_scale, list)
        self.pipe.set_ip_adapter_scale(ip_adapter_scale if several else [ip_adapter_scale] * adapters)
        if ip_adapter_masks is not None:
            read = IPAdapterMaskProcessor(vae_scale_factor=self.pipe.vae_scale_factor).preprocess
            size = {"height": arguments["height"], "width": arguments["width"]}
            masks = [one and read(one, **size).permute(1, 0, 2, 3) for one in ip_adapter_masks]
            arguments["cross_attention_kwargs"] = {"ip_adapter_masks": masks}
        if "ip_adapter_image_embeds" in arguments:
            arguments["ip_adapter_image_embeds"] = [torch.from_numpy(a) for a in arguments["ip_adapter_image_embeds"]]
        return self.pipe(prompt, callback_on_step_end=callback_on_step_end, **arguments)


@pytest.fixture(scope="module")
def prompted(image_prompt_bundle, tiny_sd_checkpoint, tiny_ip_adapter):
    """Factory: our pipeline and diffusers', of a base checkpoint with IP-Adapters."""
    made = {}

    def make(base="sd1-small", kinds=("plain", "plus"), target="onnxruntime", name="StableDiffusionPipeline"):
        if (base, kinds, target, name) not in made:
            theirs = diffusers_pipeline(tiny_sd_checkpoint(base), name)
            files = [tiny_ip_adapter(base, kind) for kind in kinds]
            theirs.load_ip_adapter(str(files[0].parent), subfolder="", weight_name=[file.name for file in files])
            made[base, kinds, target, name] = load(image_prompt_bundle(base, kinds), target=target), Reference(theirs)
        return made[base, kinds, target, name]

    return make


IMAGES = [image(), image(33, 64, 1)]


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_the_latents_of_diffusers(prompted, target):
    cases = [
        (PROMPT, {"ip_adapter_image": [[image(), image(seed=2)], image(33, 64, 1)], "ip_adapter_scale": [0.6, 0.3]}),
        (PROMPT, {"ip_adapter_image": IMAGES, "guidance_scale": 1.0}),
        (PAIR, {"ip_adapter_image": IMAGES, "negative_prompt": ["blurry", "dark"], "num_images_per_prompt": 2}),
        (
            PROMPT,
            {
                "ip_adapter_image": [[image(), image(seed=2)], image(33, 64, 1)],
                "ip_adapter_masks": [[mask(0), mask(1)], None],
                "ip_adapter_scale": [[0.9, 0.4], 0.5],
            },
        ),
        (PROMPT, {"ip_adapter_image": IMAGES, "ip_adapter_scale": [{"up": {"block_1": [0.0, 1.0]}, "mid": 0.3}, 0.0]}),
    ]
    for prompt, arguments in cases if target == "onnxruntime" else cases[::3]:
        compare(*prompted(target=target), prompt, **SIZE, **arguments)
    assert_idle_inputs_are_zeros(prompted(target=target)[0], {"ip_adapter_image": IMAGES}, **SIZE)


def test_encoded_images(prompted):
    generator = np.random.default_rng(0)
    shapes = (2, 24), (1, 17, 32)  # images of each adapter, and what encodes one
    both = [generator.standard_normal((2, *shape)).astype(np.float32) for shape in shapes]
    compare(*prompted(), PAIR, **SIZE, ip_adapter_image_embeds=both, ip_adapter_scale=0.5)
    alone = [array[1:] for array in both]
    compare(*prompted(), PROMPT, **SIZE, ip_adapter_image_embeds=alone, guidance_scale=1.0)


def test_image_to_image(prompted):
    ours, theirs = prompted(name="StableDiffusionImg2ImgPipeline")
    start = image(40, 56, 5)
    compare(ours, theirs, PROMPT, image=start, ip_adapter_image=IMAGES, num_inference_steps=3, strength=0.7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "kinds", "name"),
    [
        ("sd1", ("full", "plain", "plus"), "StableDiffusionPipeline"),
        ("xl", ("plus", "plain"), "StableDiffusionXLPipeline"),
        ("lcm", ("plain",), "LatentConsistencyModelPipeline"),
        ("instruct", ("plain",), "StableDiffusionInstructPix2PixPipeline"),
    ],
)
def test_other_checkpoints(prompted, base, kinds, name):
    """Sides that do not halve evenly."""
    images = [image(seed=number) for number in range(len(kinds))]
    start = {"image": image(72, 88, 9)} if base == "instruct" else {"height": 72, "width": 88}
    pair = prompted(base, kinds, name=name)
    for target in ("onnxruntime", "openvino"):
        ours = prompted(base, kinds, target, name)[0]
        compare(ours, pair[1], PROMPT, **start, ip_adapter_image=images, ip_adapter_scale=0.7, num_inference_steps=3)
    if base in ("sd1", "xl"):
        masks = [[mask(number, 72, 88)] for number in range(len(kinds))]
        compare(*pair, PROMPT, **start, ip_adapter_image=images, ip_adapter_masks=masks, num_inference_steps=2)


def latents(pipe, **arguments):
    return pipe(PROMPT, **{**SIZE, "seed": 0, "output_type": "latent", **arguments}).images


def test_without_an_image_or_at_scale_0_it_generates_as_without_adapters(prompted, exported, tiny_sd_checkpoint):
    ours = prompted()[0]
    plain = latents(load(exported(tiny_sd_checkpoint("sd1-small"))))
    np.testing.assert_allclose(latents(ours), plain, atol=1e-5)
    np.testing.assert_allclose(latents(ours, ip_adapter_image=IMAGES, ip_adapter_scale=0.0), plain, atol=1e-5)
    assert np.abs(latents(ours, ip_adapter_image=IMAGES) - plain).max() > 0.05


def test_masks_are_arrays_too(prompted):
    """As `IPAdapterMaskProcessor` prepares them, and with values between."""
    ours, masks = prompted()[0], [mask(0), mask(1)]
    prepared = [IPAdapterMaskProcessor(vae_scale_factor=4).preprocess(one, height=40, width=56) for one in masks]
    drawn = latents(ours, ip_adapter_image=IMAGES, ip_adapter_masks=masks)
    np.testing.assert_array_equal(latents(ours, ip_adapter_image=IMAGES, ip_adapter_masks=prepared), drawn)
    soft = [0.5 * one[0].numpy() for one in prepared]
    halves = latents(ours, ip_adapter_image=IMAGES, ip_adapter_masks=prepared, ip_adapter_scale=0.5)
    np.testing.assert_allclose(latents(ours, ip_adapter_image=IMAGES, ip_adapter_masks=soft), halves, atol=1e-5)


def test_images_are_encoded_once_a_run(prompted):
    pipe, calls = prompted()[0], []
    pipe.session.on_call = lambda name, *_: calls.append(name)
    try:
        latents(pipe, ip_adapter_image=IMAGES)
        encoded = [name for name in calls if name.startswith(("image_encoder", "ip_adapter"))]
        assert encoded == ["image_encoder", "image_encoder", "ip_adapter", "ip_adapter_1"]
        calls.clear()
        latents(pipe)
        assert not any(name.startswith(("image_encoder", "ip_adapter")) for name in calls)
    finally:
        pipe.session.on_call = None


TWO = {"ip_adapter_image": IMAGES}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"ip_adapter_image": image()},
            "ip_adapter_image: got 1 for 2 IP-Adapters of this bundle, expected one for each",
        ),
        ({"ip_adapter_image": [image(), "cat.png"]}, "ip_adapter_image: got str, expected a PIL image"),
        ({"ip_adapter_image": [image(), []]}, "ip_adapter_image: got an empty list, expected at least one image"),
        (
            {"ip_adapter_image": [image(), np.zeros((8, 8, 3), np.float32)]},
            "ip_adapter_image: got an array, expected PIL images; pass encoded images as ip_adapter_image_embeds",
        ),
        (
            {**TWO, "ip_adapter_image_embeds": [np.zeros((2, 1, 24), np.float32)] * 2},
            "ip_adapter_image and ip_adapter_image_embeds: got both, expected one of them",
        ),
        (
            {"ip_adapter_image_embeds": [np.zeros((1, 1, 24), np.float32), np.zeros((2, 1, 17, 32), np.float32)]},
            r"got float32 \(1, 1, 24\), expected a list of floats \(2, images, width\) or \(2, images, tokens, width\)",
        ),
        (
            {"ip_adapter_image_embeds": [np.zeros((2, 1, 25), np.float32), np.zeros((2, 1, 17, 32), np.float32)]},
            r"ip_adapter_image_embeds: got \(1, 25\), expected \(images, 24\) for ip_adapter",
        ),
        (
            {"ip_adapter_image_embeds": [np.zeros((2, 1, 24), np.float32)]},
            "ip_adapter_image_embeds: got 1 for 2 IP-Adapters of this bundle, expected a list with one for each",
        ),
        (
            {"ip_adapter_scale": 0.5},
            "ip_adapter_scale needs ip_adapter_image, an image for every IP-Adapter; pass both",
        ),
        ({**TWO, "ip_adapter_scale": [0.5]}, "ip_adapter_scale: got 1 for 2 IP-Adapters of this bundle, expected one"),
        ({**TWO, "ip_adapter_scale": float("nan")}, "ip_adapter_scale: got nan, expected a number"),
        (
            {**TWO, "ip_adapter_scale": {"middle": 1.0}},
            "ip_adapter_scale: got the part 'middle', expected down, mid or",
        ),
        (
            {**TWO, "ip_adapter_scale": {"down": {"block_1": 1.0}}},
            "ip_adapter_scale: got 'block_1' in 'down', expected one of block_0: those with cross attention",
        ),
        (
            {**TWO, "ip_adapter_scale": {"up": {"block_1": [1.0, 2.0, 3.0]}}},
            "ip_adapter_scale: got a list of 3 for up_blocks.1, expected a number, or 2: one for each of its att",
        ),
        (
            {**TWO, "ip_adapter_scale": [[0.1, 0.2], 1.0]},
            "ip_adapter_scale: got a list of 2 for 1 image prompts with a mask of their own, expected a number, or one",
        ),
        ({**TWO, "ip_adapter_masks": [mask(0)]}, "ip_adapter_masks: got 1 for 2 IP-Adapters of this bundle, expected"),
        (
            {**TWO, "ip_adapter_masks": [[mask(0), mask(1)], None]},
            "ip_adapter_masks: got 2 masks for 1 images of an IP-Adapter, expected one for each",
        ),
        (
            {**TWO, "ip_adapter_masks": [np.zeros((8, 8)), None]},
            r"ip_adapter_masks: got an array of float64 \(8, 8\), expected finite floats \(images, height, width\)",
        ),
        ({**TWO, "ip_adapter_masks": ["mask.png", None]}, "ip_adapter_masks: got str, expected PIL images"),
    ],
)
def test_what_does_not_fit_is_refused(prompted, arguments, message):
    with pytest.raises(InputError, match=message):
        latents(prompted()[0], **arguments)


def test_a_bundle_without_adapters_says_so(exported, tiny_sd_checkpoint):
    with pytest.raises(
        InputError, match="ip_adapter_image: got one, but this bundle has no IP-Adapter; export it with"
    ):
        latents(load(exported(tiny_sd_checkpoint("sd1-small"))), ip_adapter_image=image())


def test_an_engine_of_one_size_takes_no_other_number_of_images(prompted, monkeypatch):
    """As those for TensorRT for RTX and Core ML, which are made for one image without masks."""
    ours, own = prompted()[0], prompted()[0].session.inputs
    usual = {"image_prompts_0": 1, "image_prompts_1": 1, "image_tokens_0": 4, "image_tokens_1": 3}

    def fixed(name):
        return tuple(replace(spec, shape=tuple(usual.get(dim, dim) for dim in spec.shape)) for spec in own(name))

    monkeypatch.setattr(ours.session, "inputs", fixed)
    assert latents(ours, **TWO).shape == (1, 4, 10, 14)
    two = [[image(), image(seed=2)], image(seed=3)]
    with pytest.raises(
        InputError, match="ip_adapter_image: got 8 tokens of image prompts, expected 4: this engine was"
    ):
        latents(ours, ip_adapter_image=two)
    with pytest.raises(
        InputError, match="ip_adapter_image: got 2 masked image prompts, expected 1: this engine was made"
    ):
        latents(ours, ip_adapter_image=two, ip_adapter_masks=[[mask(0), mask(1)], None])


def test_a_damaged_config_of_a_projection_is_refused():
    config = {"_class_name": "ImageProjection", "image_embed_dim": 24, "layers": "all"}
    session = SimpleNamespace(bundle=SimpleNamespace(config=lambda _name: config))
    with pytest.raises(
        ConfigError, match="ip_adapter/config.json: field 'layers': got 'all', expected a list of names"
    ):
        ImageProjection(session, "ip_adapter")


def test_inputs_whose_size_follows_from_no_image_are_refused():
    with pytest.raises(
        BundleError, match=r"inputs for an IP-Adapter: got an input of the denoiser of shape \('batch', '"
    ):
        shape_of_input(("batch", "depth"), (1, 4, 8, 8), copies=1, scale_factor=8, owner="an IP-Adapter")
