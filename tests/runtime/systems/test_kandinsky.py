"""Kandinsky 2.2's prior and decoders against diffusers, after every step."""

import diffusers
import numpy as np
import pytest
import torch
from PIL.Image import fromarray
from system_pair import TOLERANCE, compare_system, open_theirs
from tiny_kandinsky import DDIM, WIDTH, make_decoder, make_prior

from diffoundry.exporter.reference.arguments import reference_arguments
from diffoundry.exporter.reference.calls import call_pipeline
from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.systems.kandinsky_decoder import grow_hole


@pytest.fixture(scope="module")
def prior_pair(system_checkpoint, exported):
    def open_both(target="onnxruntime", name="KandinskyV22PriorPipeline"):
        folder = system_checkpoint("kandinsky-prior", make_prior)
        bundle = exported(folder, target="onnxruntime,openvino")
        return load(bundle, target=target), open_theirs(folder, name)

    return open_both


@pytest.fixture(scope="module")
def decoder_pair(system_checkpoint, exported):
    def open_both(name, target="onnxruntime", learned=False):
        scheduler = (
            diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
            if learned
            else diffusers.DDIMScheduler(**DDIM)
        )
        kind = f"{name}-learned" if learned else name
        folder = system_checkpoint(kind, lambda folder: make_decoder(folder, name, scheduler))
        return load(exported(folder, target="onnxruntime,openvino"), target=target), open_theirs(folder, name)

    return open_both


def image(width=16, height=12, seed=0):
    return fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def embeds(rows=1, seed=0):
    made = np.random.default_rng(seed).standard_normal((2, rows, WIDTH)).astype(np.float32)
    return {"image_embeds": made[0], "negative_image_embeds": made[1]}


def compare_prior(ours, theirs, **arguments):
    """Follow both priors, and compare both embeddings of the result."""
    expected = []
    output = call_pipeline(
        theirs,
        arguments["prompt"],
        lambda _index, _timestep, latents: expected.append(latents.numpy().copy()),
        watch=True,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **{name: value for name, value in arguments.items() if name != "prompt"},
    )
    run = ours.start(seed=0, **arguments)
    for step, latents in zip(run, expected, strict=True):
        assert np.abs(step.latents - latents).max() < TOLERANCE * np.sqrt(np.mean(latents**2))
    result = run.finish()
    for ours_rows, rows in zip(result.to_tuple(), output.to_tuple(), strict=True):
        np.testing.assert_allclose(ours_rows, rows, atol=1e-4 * np.abs(rows).max())
    return result


PRIOR_CASES = {
    "defaults": {"prompt": "a red apple"},
    "several": {"prompt": ["a red apple", "a cat"], "num_images_per_prompt": 2},
    "a negative prompt": {"prompt": ["a red apple", "a cat"], "negative_prompt": ["blue", "a dog"]},
    "no guidance": {"prompt": "a cat", "guidance_scale": 1.0, "num_images_per_prompt": 2},
}

IMAGE_CASES = {
    "an image": {"prompt": "a red apple", "image": image(40, 36), "strength": 0.6},
    "several": {
        "prompt": ["a cat", "a dog"], "image": [image(40, 36), image(40, 36, seed=1)], "strength": 1.0,
        "num_images_per_prompt": 2, "negative_prompt": ["blue", "red"],
    },
}  # fmt: skip


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_of_the_prior_is_diffusers(prior_pair, target):
    ours, theirs = prior_pair(target)
    for name, arguments in PRIOR_CASES.items():
        result = compare_prior(ours, theirs, num_inference_steps=4, **arguments)
        count = len(arguments["prompt"]) if isinstance(arguments["prompt"], list) else 1
        assert result.image_embeds.shape == (count * arguments.get("num_images_per_prompt", 1), WIDTH), name
    editor = prior_pair(target, "KandinskyV22PriorEmb2EmbPipeline")[1]
    for arguments in IMAGE_CASES.values():
        compare_prior(ours, editor, num_inference_steps=5, **arguments)


INTERPOLATIONS = {
    "an image and a prompt": {"images_and_prompts": [image(40, 36), "a cat"], "weights": [0.3, 0.7]},
    "several, with negative prompts": {
        "images_and_prompts": ["a red apple", image(40, 36), "a cat"],
        "weights": [0.5, 0.3, 0.2],
        "negative_prior_prompt": "blue",
        "negative_prompt": "a dog",
        "num_images_per_prompt": 2,
        "guidance_scale": 2.0,
    },
}


def test_interpolations_are_diffusers(prior_pair):
    for name in ("KandinskyV22PriorPipeline", "KandinskyPriorPipeline"):
        ours, theirs = prior_pair(name=name)
        for arguments in INTERPOLATIONS.values():
            if "num_images_per_prompt" in arguments and name == "KandinskyPriorPipeline":
                continue  # it adds up the embeddings of all images
            given = {"num_inference_steps": 3, **arguments}
            expected = theirs.interpolate(generator=torch.Generator().manual_seed(0), **given)
            result = ours.interpolate(seed=0, **given)
            for rows, wanted in zip(result.to_tuple(), expected.to_tuple(), strict=True):
                np.testing.assert_allclose(rows, wanted, atol=1e-4 * np.abs(wanted.numpy()).max())
            assert result.seed == 0
    with pytest.raises(InputError, match="weights: got 1 for 2 images and prompts, expected one for each"):
        ours.interpolate(["a cat", "a dog"], [1.0])
    with pytest.raises(InputError, match="image: got int, expected a PIL image"):
        ours.interpolate([3], [1.0])


DECODERS = {
    "KandinskyV22Pipeline": {},
    "KandinskyV22Img2ImgPipeline": {"image": image(), "strength": 0.7},
    "KandinskyV22InpaintPipeline": {
        "image": image(),
        "mask_image": fromarray(np.pad(np.full((4, 6), 255, np.uint8), ((3, 5), (4, 6)))),
    },
}

CASES = {
    "defaults": embeds(),
    "several": {**embeds(2), "num_images_per_prompt": 2},
    "no guidance": {**embeds(), "guidance_scale": 1.0},
}


def their_size(name, height, width):
    """diffusers passes both sides of an image to start from in the wrong order."""
    return {"height": width, "width": height} if "Img2Img" in name else {"height": height, "width": width}


@pytest.mark.slow_cases("KandinskyV22InpaintPipeline")
@pytest.mark.parametrize("name", DECODERS)
def test_every_step_of_a_decoder_is_diffusers(decoder_pair, name):
    ours, theirs = decoder_pair(name)
    for case, arguments in CASES.items():
        own = dict(DECODERS[name])
        if case == "several":
            own = {key: [value, value] if key.endswith("image") else value for key, value in own.items()}
            own |= {"image": [image(), image(seed=1)]} if own else {}
        arrays = {key: arguments[key] for key in ("image_embeds", "negative_image_embeds")}
        tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
        rest = {key: value for key, value in arguments.items() if key not in arrays}
        compare_system(
            ours, theirs, watch="Inpaint" not in name, ours_only={**arrays, "height": 12, "width": 16},
            theirs_only={**tensors, **their_size(name, 12, 16)}, num_inference_steps=4, **own, **rest,
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["KandinskyV22ControlnetPipeline", "KandinskyV22ControlnetImg2ImgPipeline"])
def test_every_step_with_a_hint_is_diffusers(decoder_pair, name):
    ours, theirs = decoder_pair(name)
    hint = np.random.default_rng(0).random((1, 3, 64, 128)).astype(np.float32)
    own = {"image": image(128, 64), "strength": 0.7} if "Img2Img" in name else {}
    arrays = {**embeds(), "hint": hint}
    tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
    compare_system(
        ours, theirs, ours_only={**arrays, "height": 64, "width": 128},
        theirs_only={**tensors, **their_size(name, 64, 128)}, num_inference_steps=3, **own,
    )  # fmt: skip


def test_a_measurement_starts_from_an_image(decoder_pair):
    """Of the size that the call names beside it; every seed has an image and embeddings of its own."""
    ours, theirs = decoder_pair("KandinskyV22Img2ImgPipeline")
    arguments, other = (ours.measure_arguments(3, 3.0, 16, 16, seed) for seed in (None, 5))
    compare_system(ours, theirs, ours_only=arguments, theirs_only=reference_arguments(theirs, arguments))
    assert np.abs(arguments["image_embeds"] - other["image_embeds"]).min() > 0
    assert np.abs(np.asarray(arguments["image"]).astype(int) - np.asarray(other["image"])).mean() > 10


@pytest.mark.slow
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_a_learned_variance_is_that_of_the_conditional_half(decoder_pair, guidance_scale):
    ours, theirs = decoder_pair("KandinskyV22Pipeline", "openvino", learned=True)
    arrays = embeds()
    tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
    compare_system(
        ours, theirs, ours_only=arrays, theirs_only=tensors, height=12, width=16, num_inference_steps=4,
        guidance_scale=guidance_scale,
    )  # fmt: skip


def test_a_hole_grows_as_in_diffusers():
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_inpainting import prepare_mask

    masks = (np.random.default_rng(0).random((3, 1, 9, 7)) > 0.2).astype(np.float32)
    np.testing.assert_array_equal(grow_hole(masks), prepare_mask(torch.from_numpy(masks.copy())).numpy())


PRIOR_ERRORS = {
    "no prompt": ({"prompt": None}, "prompt: got none, expected a text"),
    "no image": ({"image": 3, "strength": 1.0}, "image: got int, expected a PIL image, or embeddings"),
    "another width": (
        {"image": np.zeros((1, 5), np.float32), "strength": 1.0},
        "image: got embeddings of 5 numbers, expected 32",
    ),
    "a strength": ({"image": image(), "strength": 0.0}, "strength: got 0.0"),
    "a strength alone": ({"strength": 0.5}, "strength: got 0.5 without an image that it acts on; pass image too"),
    "another scheduler": ({"scheduler": "ddim"}, "expected UnCLIPScheduler"),
}


def test_wrong_arguments_of_a_prior_are_refused(prior_pair):
    ours, _ = prior_pair()
    for arguments, words in PRIOR_ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours(**{"prompt": "a cat", "num_inference_steps": 2, **arguments})
    run = ours.start("a cat", num_inference_steps=2, seed=0)
    next(iter(run))
    with pytest.raises(InputError, match="preview"):
        run.preview()


DECODER_ERRORS = {
    "no embeddings": ({"image_embeds": None}, "image_embeds: got none, expected embeddings .* of a prior; chain"),
    "no negative ones": ({"negative_image_embeds": None}, "negative_image_embeds: got none"),
    "another width": (
        {"image_embeds": np.zeros((1, 5), np.float32), "guidance_scale": 1.0},
        "image_embeds: got 5 numbers for an image, expected 32",
    ),
    "other rows": (
        {"negative_image_embeds": np.zeros((2, 32), np.float32)},
        r"negative_image_embeds: got shape \(2, 32\), expected that of image_embeds",
    ),
    "no row": (
        {"image_embeds": np.zeros((0, 32), np.float32)},
        r"image_embeds: got float32 \(0, 32\), expected floats \(B, D\)",
    ),
    "whole numbers": ({"image_embeds": np.zeros((1, 32), int)}, r"image_embeds: got int64 \(1, 32\), expected floats"),
    "an odd size": (
        {"height": 14},
        "height: got 14, expected a multiple of 4: a latent has 2 pixels and the denoiser takes multiples of 2 latents",
    ),
    "a hint": ({"hint": image()}, "hint: got one, expected none"),
    "another image size": ({"image": image(20, 12)}, "image: got 20 x 12 pixels, expected 16 x 12"),
    "a strength alone": ({"strength": 0.5}, "strength: got 0.5 without an image that it acts on; pass image too"),
    "a prompt": ({"prompt": "a cat"}, "prompt: got 'a cat', expected none: images of embeddings"),
    "latents and an image": ({"image": image(), "latents": np.zeros((1, 4, 6, 8), np.float32)}, "latents and image"),
}


def test_wrong_arguments_of_a_decoder_are_refused(decoder_pair):
    ours, _ = decoder_pair("KandinskyV22Pipeline")
    for arguments, words in DECODER_ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours(**{**embeds(), "height": 12, "width": 16, "num_inference_steps": 2, **arguments})


@pytest.mark.slow
def test_masks_and_hints_that_are_none_are_refused(decoder_pair):
    inpainting, _ = decoder_pair("KandinskyV22InpaintPipeline")
    with pytest.raises(InputError, match="mask_image: got none, expected one: inpainting is what"):
        inpainting(**embeds(), image=image(), height=12, width=16)
    hinted, _ = decoder_pair("KandinskyV22ControlnetPipeline")
    with pytest.raises(InputError, match="hint: got none, expected one, such as a depth map"):
        hinted(**embeds(), height=64, width=64)
    for hint, words in (
        (np.full((1, 3, 64, 64), 200, np.uint8), "an array of uint8"),
        (np.full((1, 3, 64, 64), np.nan), "NaN"),
    ):
        with pytest.raises(InputError, match=f"hint: got {words}"):
            hinted(**embeds(), hint=hint, height=64, width=64, num_inference_steps=2)
