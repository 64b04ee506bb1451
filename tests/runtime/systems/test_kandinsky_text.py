"""Kandinsky 2.1's decoders, which take a prompt beside the embeddings, against diffusers after every step."""

import diffusers
import numpy as np
import pytest
import torch
from PIL.Image import fromarray
from system_pair import compare_system, open_theirs
from tiny_kandinsky import DDIM, WIDTH, make_text_decoder

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def decoder_pair(system_checkpoint, exported):
    def open_both(name, target="onnxruntime", learned=False):
        scheduler = (
            diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
            if learned
            else diffusers.DDIMScheduler(**DDIM)
        )
        made = name.replace("Img2Img", "")  # with the same networks
        kind = f"{made}-learned" if learned else made
        folder = system_checkpoint(kind, lambda folder: make_text_decoder(folder, made, scheduler))
        return load(exported(folder, target="onnxruntime,openvino"), target=target), open_theirs(folder, name)

    return open_both


def image(width=16, height=12, seed=0):
    return fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def embeds(rows=1, seed=0):
    made = np.random.default_rng(seed).standard_normal((2, rows, WIDTH)).astype(np.float32)
    return {"image_embeds": made[0], "negative_image_embeds": made[1]}


def compare(ours, theirs, **arguments):
    """Compare a call."""
    arrays = {name: arguments.pop(name) for name in ("image_embeds", "negative_image_embeds")}
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    return compare_system(
        ours, theirs, height=12, width=16, ours_only=arrays, theirs_only=tensors, num_inference_steps=4, **arguments
    )


def put_sides_right(pipeline):
    """Pass height and width to the processor of images, which diffusers has in the wrong order.

    It refuses images then that are not square.
    """
    preprocess = pipeline.image_processor.preprocess
    pipeline.image_processor.preprocess = lambda one, width, height: preprocess(one, height, width)


DECODERS = {
    "KandinskyPipeline": {},
    "KandinskyImg2ImgPipeline": {"image": image(), "strength": 0.7},
    "KandinskyInpaintPipeline": {
        "image": image(),
        "mask_image": fromarray(np.pad(np.full((4, 6), 255, np.uint8), ((3, 5), (4, 6)))),
    },
}

CASES = {
    "defaults": {**embeds(), "prompt": "a red apple"},
    "several": {
        **embeds(2), "prompt": ["a red apple", "a cat"], "negative_prompt": ["blue", "a dog on the table"],
        "num_images_per_prompt": 2,
    },
    "no guidance": {**embeds(), "prompt": "a cat", "guidance_scale": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("name", DECODERS)
def test_every_step_of_a_decoder_is_diffusers(decoder_pair, name):
    ours, theirs = decoder_pair(name)
    if "Img2Img" in name:
        put_sides_right(theirs)
    for case, arguments in CASES.items():
        own = dict(DECODERS[name])
        if case == "several" and own:
            own = {key: [value, value] if key == "mask_image" else value for key, value in own.items()}
            own |= {"image": [image(), image(seed=1)]}
        compare(ours, theirs, **arguments, **own)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_a_learned_variance_is_that_of_the_conditional_half(decoder_pair, guidance_scale):
    ours, theirs = decoder_pair("KandinskyPipeline", "openvino", learned=True)
    compare(ours, theirs, prompt="a red apple", **embeds(), guidance_scale=guidance_scale)


def test_rows_of_embeddings_may_share_a_prompt(decoder_pair):
    """As the combined pipeline of diffusers repeats one prompt, but with several prompts each beside its own rows."""
    ours, theirs = decoder_pair("KandinskyPipeline")
    prompts = ["a red apple", "a cat"]
    size = {"height": 12, "width": 16, "num_inference_steps": 2, "output_type": "np"}
    rows = embeds(4)
    tensors = {name: torch.from_numpy(value) for name, value in rows.items()}
    repeated = [prompt for prompt in prompts for _ in range(2)]
    expected = theirs(repeated, generator=torch.Generator().manual_seed(0), **tensors, **size).images
    images = ours(prompts, seed=0, **rows, **size).images
    np.testing.assert_allclose(images, expected, atol=1e-4)
    doubled = {name: value[[0, 0]] for name, value in tensors.items()}
    expected = theirs(prompts, generator=torch.Generator().manual_seed(0), **doubled, **size).images
    images = ours(prompts, seed=0, **{name: value[:1] for name, value in rows.items()}, **size).images
    np.testing.assert_allclose(images, expected, atol=1e-4)


ERRORS = {
    "no prompt": ({"prompt": None}, "prompt: got none, expected a text beside the embeddings"),
    "prompts": (
        {"prompt": ["a cat", "a dog"], **embeds(3)},
        "image_embeds: got 3 rows for 2 prompts, expected the same number",
    ),
    "negatives": ({"negative_prompt": ["a", "b"]}, "negative_prompt: got 2 entries"),
    "another width": (
        {"image_embeds": np.zeros((1, 5), np.float32), "guidance_scale": 1.0},
        "image_embeds: got 5 numbers for an image, expected 32",
    ),
    "a hint": ({"hint": image()}, "hint"),
    "a strength alone": ({"strength": 0.5}, "strength: got 0.5 without an image that it acts on; pass image too"),
    "a strength": ({"image": image(), "strength": 0.0}, "strength: got 0.0"),
}


def test_wrong_arguments_are_refused(decoder_pair):
    ours, _ = decoder_pair("KandinskyPipeline")
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours(**{"prompt": "a cat", **embeds(), "height": 12, "width": 16, **arguments})
    inpainting, _ = decoder_pair("KandinskyInpaintPipeline")
    with pytest.raises(InputError, match="mask_image: got none, expected one: inpainting is what"):
        inpainting("a cat", **embeds(), image=image(), height=12, width=16)
