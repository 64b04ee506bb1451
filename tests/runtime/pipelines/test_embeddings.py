"""Embeddings in place of prompts, in both families, against diffusers: its own embeddings mixed, as people do."""

import numpy as np
import pytest
import torch
from pipeline_harness import compare

from diffoundry.runtime.errors import InputError


def _mixed(pipe, names):
    """Half way between two prompts, and the negative one's: argument to array."""
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    with torch.inference_mode():
        first, second = (pipe.encode_prompt(prompt, **options) for prompt in ("a red apple", "a fox"))
    return {name: ((a + b) / 2).numpy() for name, a, b in zip(names, first, second, strict=True)}


def test_stable_diffusion(emoji, emoji_diffusers):
    embeddings = _mixed(emoji_diffusers, ("prompt_embeds", "negative_prompt_embeds"))
    compare(emoji, emoji_diffusers, None, **embeddings, num_inference_steps=5)
    only = {"prompt_embeds": embeddings["prompt_embeds"]}
    compare(emoji, emoji_diffusers, None, **only, negative_prompt="blue", num_inference_steps=4)
    twice = {"prompt_embeds": np.repeat(embeddings["prompt_embeds"], 2, axis=0), "num_images_per_prompt": 2}
    compare(emoji, emoji_diffusers, None, **twice, guidance_scale=1.0, num_inference_steps=3)


def test_stable_diffusion_xl(xl):
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    embeddings = _mixed(xl[1], names)
    compare(*xl, None, **embeddings, num_inference_steps=4)
    prompts = {name: embeddings[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}
    compare(*xl, None, **prompts, num_inference_steps=4)
    negatives = {name: embeddings[name] for name in names if name.startswith("negative")}
    compare(*xl, "a red apple", **negatives, num_inference_steps=4)


EMBEDDINGS = np.zeros((1, 77, 128), np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": None}, "prompt and prompt_embeds: got neither, expected one of them"),
        ({"prompt": "x", "prompt_embeds": EMBEDDINGS}, "prompt and prompt_embeds: got both, expected one of them"),
        (
            {"prompt": "x", "negative_prompt": "y", "negative_prompt_embeds": EMBEDDINGS},
            "negative_prompt and negative_prompt_embeds: got both",
        ),
        (
            {"prompt_embeds": EMBEDDINGS[0]},
            r"prompt_embeds: got shape \(77, 128\), expected floats \(77, tok",
        ),
        ({"prompt_embeds": [1.0]}, "prompt_embeds: got list, expected a NumPy array of floats"),
        (
            {"prompt_embeds": EMBEDDINGS, "negative_prompt_embeds": EMBEDDINGS[:, :70]},
            "negative_prompt_embeds: got shape .*, expected that of prompt_embeds",
        ),
        ({"prompt_embeds": EMBEDDINGS[:, :70]}, "for the prompt and its negative, expected the same; pass embeddings"),
    ],
)
def test_wrong_arguments_are_named(emoji, arguments, message):
    with pytest.raises(InputError, match=message):
        emoji(seed=0, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_embeds": EMBEDDINGS}, "prompt_embeds and pooled_prompt_embeds: got one of them, expected both"),
        (
            {"prompt": "x", "negative_pooled_prompt_embeds": EMBEDDINGS[0, :1]},
            "negative_prompt_embeds and negative_pooled_prompt_embeds: got one of them",
        ),
        (
            {"prompt_embeds": EMBEDDINGS, "pooled_prompt_embeds": EMBEDDINGS[0, :1], "prompt_2": "x"},
            "prompt_2 and prompt_embeds: got both",
        ),
        ({"prompt": "x", "clip_skip": 2}, "clip_skip: got 2, expected a whole number from 0 to 1"),
    ],
)
def test_what_stable_diffusion_xl_refuses(xl, arguments, message):
    with pytest.raises(InputError, match=message):
        xl[0](seed=0, **arguments)
