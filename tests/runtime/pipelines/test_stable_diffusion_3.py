"""Stable Diffusion 3 against diffusers' own pipeline on tiny random checkpoints, after every step."""

import diffusers
import numpy as np
import pytest
import torch
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.exporter.checkpoints.tokenizer_files import open_tokenizer
from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

PIPELINE = "StableDiffusion3Pipeline"


@pytest.fixture(scope="module")
def base(tiny_sd_checkpoint):
    return tiny_sd_checkpoint("sd3")


@pytest.fixture(scope="module")
def sd3(portable_bundle):
    return load(portable_bundle("sd3"), target="onnxruntime")


@pytest.fixture(scope="module")
def theirs(base):
    return diffusers_pipeline(base, PIPELINE)


CASES = {
    "defaults": {},
    "ten steps": {"num_inference_steps": 10},
    "no guidance": {"guidance_scale": 1.0},
    "another size": {"height": 80, "width": 112, "num_images_per_prompt": 2},
    "largest size": {"height": 192, "width": 64},
    "negative prompts": {"negative_prompt": "blue", "negative_prompt_2": "green", "negative_prompt_3": "a cat"},
    "one negative prompt": {"negative_prompt": "blue"},
    "prompts of its own for each encoder": {"prompt_2": "a cat", "prompt_3": "a very long snowman " * 30},
    "tokens of T5": {"max_sequence_length": 40, "prompt_3": "the table of rows " * 20},
    "skipped layers": {"clip_skip": 1, "negative_prompt": "blue"},
    "sigmas": {"sigmas": [1.0, 0.7, 0.2]},
    "skip-layer guidance": {"skip_guidance_layers": [1], "skip_layer_guidance_stop": 0.9, "num_images_per_prompt": 2},
    "from a later step": {
        "skip_guidance_layers": [0, 1],
        "skip_layer_guidance_start": 0.3,
        "negative_prompt": "blue",
        "skip_layer_guidance_stop": 1.0,
        "skip_layer_guidance_scale": 1.5,
        "height": 80,
    },
}


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
def test_every_step_is_diffusers(sd3, theirs, arguments):
    steps = {} if arguments in ({}, CASES["ten steps"], CASES["sigmas"]) else {"num_inference_steps": 4}
    compare(sd3, theirs, "a red apple", **steps, **arguments)


@pytest.mark.parametrize("name", ["EulerDiscrete", "HeunDiscrete", "LMSDiscrete"])
def test_schedulers_that_scale_latents_elsewhere_are_diffusers(sd3, base, theirs, name):
    """diffusers' pipeline calls no `scale_model_input`, and multiplies the noise by no `init_noise_sigma`."""
    other = getattr(diffusers, f"{name}Scheduler").from_config(theirs.scheduler.config)
    assert other.init_noise_sigma > 2
    expected = diffusers_pipeline(base, PIPELINE, scheduler=other)
    compare(sd3, expected, "a red apple", num_inference_steps=4, ours_only={"scheduler": name})


def test_several_prompts_and_seeds(sd3, theirs):
    arguments = {"negative_prompt": ["blue", ""], "prompt_3": ["a cat", "a dog"], "num_inference_steps": 4}
    compare(sd3, theirs, ["a red apple", "a cat face"], seed=[3, 4], **arguments)


@pytest.mark.parametrize("size", [(64, 64), (96, 80)])
def test_every_step_is_diffusers_on_openvino(portable_bundle, theirs, size):
    ours = load(portable_bundle("sd3"), target="openvino")
    arguments = {"height": size[0], "width": size[1], "num_inference_steps": 5, "negative_prompt": "blue"}
    compare(ours, theirs, "a red apple", **arguments)


@pytest.mark.parametrize("size", [(64, 64), (80, 112)])
def test_dynamic_shifting_and_the_networks_of_3_5(exported, tiny_sd_checkpoint, size):
    """The schedule follows the number of patches; the tokenizer is converted from sentencepiece's model."""
    folder = tiny_sd_checkpoint("sd3.5")
    converted = open_tokenizer(folder / "tokenizer_3", "T5TokenizerFast")
    theirs = diffusers_pipeline(folder, PIPELINE, tokenizer_3=converted)
    ours = load(exported(folder))
    arguments = {"height": size[0], "width": size[1], "num_inference_steps": 4}
    compare(ours, theirs, "a red apple", **arguments)
    compare(ours, theirs, "a red apple", mu=0.7, **arguments)


def test_zeros_where_t5_is_missing(exported, tiny_sd_checkpoint):
    folder = tiny_sd_checkpoint("sd3-without-t5")
    ours = load(exported(folder))
    assert [encoder.name for encoder in ours.text_encoders] == ["text_encoder", "text_encoder_2"]
    theirs = diffusers_pipeline(folder, PIPELINE, text_encoder_3=None, tokenizer_3=None)
    compare(ours, theirs, "a red apple", num_inference_steps=4, negative_prompt="blue")
    for name in ("prompt_3", "negative_prompt_3"):
        with pytest.raises(InputError, match=f"{name}: got one, but this bundle has no T5 text encoder to read it"):
            ours("a red apple", **{name: "a cat"})


def test_embeddings_instead_of_prompts(sd3, theirs):
    with torch.no_grad():
        tensors = theirs.encode_prompt("a red apple", None, None, negative_prompt="blue")
    states, negative, pooled, negative_pooled = (tensor.numpy() for tensor in tensors)
    compare(
        sd3,
        theirs,
        None,
        prompt_embeds=states,
        negative_prompt_embeds=negative,
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=negative_pooled,
        num_inference_steps=4,
    )


def test_every_text_counts(sd3):
    """With random networks too, so that a text which is not read would be seen."""
    texts = [{}, *({name: "snow"} for name in ("prompt_2", "prompt_3", "negative_prompt_2", "negative_prompt_3"))]
    images = [
        sd3("a red apple", seed=0, num_inference_steps=2, output_type="latent", **arguments).images
        for arguments in texts
    ]
    for image, arguments in zip(images[1:], texts[1:], strict=True):
        assert np.abs(image - images[0]).max() > 1e-3, arguments


def test_what_does_not_fit_is_reported(sd3):
    arguments = {"num_inference_steps": 1, "output_type": "latent"}
    assert sd3("a red apple", **arguments).truncated == ("",)
    (cut,) = sd3("a red apple", prompt_3="the table " * 200, **arguments).truncated
    assert cut.endswith("the table")


def test_a_callback_sees_and_changes_what_diffusers_does(sd3, theirs):
    def halve(_pipeline, index, _timestep, tensors):
        assert set(tensors) == {"latents", "prompt_embeds", "pooled_prompt_embeds"}
        return {"pooled_prompt_embeds": tensors["pooled_prompt_embeds"] * (0.5 if index == 0 else 1.0)}

    names = ["latents", "prompt_embeds", "pooled_prompt_embeds"]
    arguments = {"num_inference_steps": 3, "callback_on_step_end_tensor_inputs": names}
    ours = sd3("a red apple", seed=0, output_type="latent", callback_on_step_end=halve, **arguments).images
    expected = theirs(
        "a red apple",
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        callback_on_step_end=halve,
        **arguments,
    ).images
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"skip_guidance_layers": [2]},
            "skip_guidance_layers: got 2, expected numbers from 0 to 1: the transformer has",
        ),
        (
            {"skip_guidance_layers": "all"},
            "skip_guidance_layers: got 'all', expected a list of numbers of layers, such",
        ),
        ({"skip_guidance_layers": []}, r"skip_guidance_layers: got \[\], expected a list of numbers of layers, such"),
        (
            {"skip_guidance_layers": [0], "guidance_scale": 1.0},
            r"skip_guidance_layers: got \[0\] with a guidance_scale of 1, expected more than 1, since it is added to",
        ),
        (
            {"skip_layer_guidance_scale": 2.8},
            "skip_layer_guidance_scale needs skip_guidance_layers, the numbers of the",
        ),
        (
            {"skip_guidance_layers": [0], "skip_layer_guidance_start": 2},
            "skip_layer_guidance_start: got 2, expected a number of at least 0 and at most 1",
        ),
        ({"max_sequence_length": 513}, "max_sequence_length: got 513, expected a whole number from 2 to 512"),
        ({"clip_skip": 2}, "clip_skip: got 2, expected a whole number from 0 to 1"),
        ({"prompt_3": ["a", "b"]}, "prompt_3: got 2 entries, expected a string or 1 of them"),
        (
            {"height": 72},
            "height: got 72, expected a multiple of 16: a latent has 8 pixels and the denoiser takes multiples of 2",
        ),
        ({"width": 208}, "width: got 208, expected 16 to 192"),
        ({"depth_map": object()}, "depth_map: text to image and image to image and inpainting is all that this check"),
        ({"strength": 0.5}, "strength: text to image has no such argument; pass image for image to image"),
    ],
)
def test_arguments_that_are_refused(sd3, arguments, message):
    with pytest.raises(InputError, match=message):
        sd3.start("a red apple", **arguments)


def test_a_bundle_of_an_earlier_version_skips_no_layers(sd3, monkeypatch):
    assert sd3.denoiser.layers == 2
    monkeypatch.setattr(type(sd3.denoiser), "layers", None)
    with pytest.raises(InputError, match="skip_guidance_layers: this bundle is of a version without skip-layer"):
        sd3.start("a red apple", skip_guidance_layers=[0])


def test_embeddings_that_are_refused(sd3):
    states, pooled = np.zeros((1, 333, 96), np.float32), np.zeros((1, 48), np.float32)
    with pytest.raises(InputError, match="prompt_embeds and pooled_prompt_embeds: got one of them, expected both"):
        sd3.start(None, prompt_embeds=states)
    both = {"prompt_embeds": states, "pooled_prompt_embeds": pooled}
    with pytest.raises(InputError, match="prompt_3 and prompt_embeds: got both, expected one of them"):
        sd3.start(None, **both, prompt_3="a cat")
    with pytest.raises(InputError, match="clip_skip: no encoder runs with prompt_embeds; leave it out"):
        sd3.start(None, **both, clip_skip=1)
