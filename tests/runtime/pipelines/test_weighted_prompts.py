"""Weights in prompts and long prompts, against what diffusers' community pipelines gave, and diffusers' loop."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pipeline_harness import compare

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.prompt_weights import parse_weights, scale_states, stretch_states
from diffoundry.runtime.pipelines.families.base import EncodeOptions

RECORDED = json.loads((Path(__file__).parent / "weighted_prompts.json").read_text(encoding="utf-8"))

OPTIONS = EncodeOptions(height=64, width=64, images_per_prompt=1, guided=True, from_image=False)

LONG = "a (red:1.4) apple, [green] leaf, " * 12
"""Two chunks."""


def encode(pipe, **arguments):
    """Inputs of the denoiser, for the prompts and for the negative ones."""
    prompts = pipe.family.Inputs(**{"prompt_weighting": True, "long_prompts": True, **arguments})
    prompts.check()
    condition = pipe.family.encode(prompts, OPTIONS)
    return condition.conditional, condition.unconditional


def check_states(states, recorded):
    assert list(states.shape) == recorded["shape"]
    np.testing.assert_allclose(states[0, ::7, ::16], recorded["values"], atol=5e-5)


def test_the_grammar():
    assert len(RECORDED["grammar"]) > 100
    for text, parts in RECORDED["grammar"]:
        if parts is None:
            with pytest.raises(InputError, match=r"prompt: got the weight '.*' in .*, expected a number as in"):
                parse_weights(text)
        else:
            assert [list(part) for part in parse_weights(text)] == parts, text


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_stable_diffusion_is_lpw(emoji, emoji_openvino, target):
    ours = emoji if target == "onnxruntime" else emoji_openvino
    for case in RECORDED["sd"]:
        both = encode(ours, prompt=case["prompt"], negative_prompt=case["negative_prompt"])
        for feeds, name in zip(both, ("prompt_embeds", "negative_prompt_embeds"), strict=True):
            check_states(feeds["encoder_hidden_states"], case[name])


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_stable_diffusion_xl_is_lpw(exported, tiny_sd_checkpoint, target):
    """Full chunks only; partial ones are described in docs/how-to/write-prompts.md."""
    ours = load(exported(tiny_sd_checkpoint("xl"), target=target))
    for case in RECORDED["xl"]:
        feeds, _ = encode(ours, prompt=case["prompt"], clip_skip=case["clip_skip"])
        check_states(feeds["encoder_hidden_states"], case["prompt_embeds"])
        np.testing.assert_allclose(feeds["text_embeds"][0], case["first_pooled"], atol=5e-5)


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(emoji, emoji_openvino, emoji_diffusers, target):
    """diffusers given our embeddings, which the tests above hold to the community pipeline's."""
    ours = emoji if target == "onnxruntime" else emoji_openvino
    settings = {"prompt_weighting": True, "long_prompts": True}
    for prompt, negative in ((LONG, "blue"), ("a (red:1.5) apple", "(ugly:1.3)")):
        given, negatives = encode(ours, prompt=prompt, negative_prompt=negative)
        embeddings = {
            "prompt_embeds": given["encoder_hidden_states"],
            "negative_prompt_embeds": negatives["encoder_hidden_states"],
        }
        _, expected = compare(ours, emoji_diffusers, None, **embeddings, num_inference_steps=4)
        arguments = {"negative_prompt": negative, "num_inference_steps": 4, "output_type": "np"}
        got = ours(prompt, seed=0, **arguments, **settings).images
        np.testing.assert_allclose(got, expected, atol=2e-3)
        assert np.abs(got - ours(prompt, seed=0, **arguments).images).max() > 1e-2


def test_every_step_of_stable_diffusion_xl(xl):
    ours, theirs = xl
    texts = {"prompt_2": "a (cat:0.5)", "negative_prompt": "blue", "negative_prompt_2": LONG}
    given, negatives = encode(ours, prompt="a (red:1.5) apple", **texts)
    assert given["encoder_hidden_states"].shape == (1, 154, 80)
    embeddings = {
        "prompt_embeds": given["encoder_hidden_states"],
        "negative_prompt_embeds": negatives["encoder_hidden_states"],
        "pooled_prompt_embeds": given["text_embeds"],
        "negative_pooled_prompt_embeds": negatives["text_embeds"],
    }
    _, expected = compare(ours, theirs, None, **embeddings, num_inference_steps=3)
    settings = {"prompt_weighting": True, "long_prompts": True, "num_inference_steps": 3, "output_type": "np"}
    np.testing.assert_allclose(ours("a (red:1.5) apple", seed=0, **texts, **settings).images, expected, atol=1e-5)


def test_prompts_that_need_neither_give_the_same_image(emoji, xl):
    arguments = {"negative_prompt": "blue", "num_inference_steps": 2, "seed": 0, "output_type": "latent"}
    for ours in (emoji, xl[0]):
        plain = ours("a red apple, a fox", **arguments).images
        for settings in ({"prompt_weighting": True}, {"long_prompts": True}):
            np.testing.assert_array_equal(ours("a red apple, a fox", **arguments, **settings).images, plain)
        assert np.abs(ours("a (red:2) apple, a fox", **arguments, prompt_weighting=True).images - plain).max() > 1e-3


def test_zeros_for_an_empty_negative_prompt_grow_with_the_prompt(xl):
    given, negatives = encode(xl[0], prompt=LONG)
    assert negatives["encoder_hidden_states"].shape == given["encoder_hidden_states"].shape == (1, 154, 80)
    assert not negatives["encoder_hidden_states"].any()


def test_without_long_prompts_the_rest_is_cut_off_and_told(emoji):
    run = emoji.start("(cat:1.2) " * 90 + "dog", prompt_weighting=True, seed=0)
    assert run.truncated == ("cat " * 15 + "dog",)
    assert emoji.start("cat " * 90, long_prompts=True, seed=0).truncated == ("",)


def test_words_of_embeddings_have_weights(exported, tiny_sd_checkpoint, tmp_path):
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "cat.safetensors"
    save_file({"<cat>": torch.ones(2, 32)}, path)
    ours = load(exported(tiny_sd_checkpoint()))
    ours.embeddings.load(path)
    (prompt,) = ours.text_encoders[0].tokenize(["a (<cat>:1.5)"], weighting=True, long=False)
    assert prompt.ids[1:] == [4295, 4296]
    assert prompt.weights == [1.0, 1.5, 1.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_weighting": "yes"}, "prompt_weighting: got 'yes', expected True or False"),
        ({"long_prompts": 3}, "long_prompts: got 3, expected True or False"),
        (
            {"prompt": "a (cat:1.2.3)", "prompt_weighting": True},
            r"got the weight '1.2.3' in 'a \(cat:1.2.3\)', expected",
        ),
        ({"prompt": f"(a:{'9' * 60})", "prompt_weighting": True}, "weights that leave no finite embedding, expected"),
    ],
)
def test_wrong_arguments_are_named(emoji, xl, arguments, message):
    for ours in (emoji, xl[0]):
        with pytest.raises(InputError, match=message):
            ours(**{"prompt": "x", "seed": 0, **arguments})


def test_an_engine_of_one_length_says_so(emoji, monkeypatch):
    choice = emoji.session.choice

    def fixed(name):
        found = choice(name)
        if name != "unet":
            return found
        inputs = [replace(one, shape=(2, 77, 128)) if one.name == "encoder_hidden_states" else one
                  for one in found.spec.inputs]  # fmt: skip
        return replace(found, spec=replace(found.spec, inputs=tuple(inputs)))

    monkeypatch.setattr(emoji.session, "choice", fixed)
    with pytest.raises(
        InputError, match="long_prompts: got 154 tokens, expected 77: the engine of 'unet' was made for no other"
    ):
        emoji(LONG, seed=0, long_prompts=True, prompt_weighting=True)


def test_weights_of_one_change_no_bit():
    states = np.random.default_rng(0).standard_normal((2, 8, 4)).astype(np.float32)
    states[1] = 0  # whose mean is nothing to divide by
    ones = np.ones((2, 8), np.float32)
    np.testing.assert_array_equal(scale_states(states, ones), states)
    np.testing.assert_array_equal(stretch_states(states, ones, 4), states)
