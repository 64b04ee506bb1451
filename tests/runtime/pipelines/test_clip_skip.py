"""`clip_skip` of Stable Diffusion against diffusers: hidden states, every step, what is refused."""

import numpy as np
import pytest
import torch
import transformers
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError


@pytest.fixture(autouse=True)
def _inner(monkeypatch):
    """transformers 5 has no `text_model` in a text encoder, where diffusers 0.42.1 looks for its norm."""
    monkeypatch.setattr(transformers.CLIPTextModel, "text_model", property(lambda self: self), raising=False)


@pytest.mark.slow_cases("sd2")
@pytest.mark.parametrize("variant", ["sd1", "sd2"])
def test_every_step_is_diffusers(exported, tiny_sd_checkpoint, variant):
    folder = tiny_sd_checkpoint(variant)
    ours, theirs = load(exported(folder)), diffusers_pipeline(folder)
    arguments = {"negative_prompt": "blue", "num_inference_steps": 4}
    images = [compare(ours, theirs, "a red apple", **arguments, clip_skip=skip)[1] for skip in (0, 1, 2)]
    images.append(compare(ours, theirs, "a red apple", **arguments)[1])
    np.testing.assert_array_equal(images[0], images[-1])
    assert all(np.abs(images[skip] - images[0]).max() > 1e-3 for skip in (1, 2))


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_the_trained_model(emoji, emoji_openvino, emoji_folder, target):
    ours = emoji if target == "onnxruntime" else emoji_openvino
    theirs = diffusers_pipeline(emoji_folder)
    compare(ours, theirs, ["a red apple", "a fox"], seed=[3, 4], clip_skip=1, num_inference_steps=6)
    compare(ours, theirs, "a fox", clip_skip=3, num_images_per_prompt=2, guidance_scale=1.0, num_inference_steps=3)


def test_the_states_of_every_layer(emoji, emoji_folder):
    theirs = diffusers_pipeline(emoji_folder).text_encoder
    ids = emoji.text_encoders[0].tokenizer(["a red apple", ""]).input_ids
    with torch.inference_mode():
        states = theirs(torch.from_numpy(ids).long(), output_hidden_states=True).hidden_states
        expected = [theirs.final_layer_norm(state).numpy() for state in states]
    got = emoji.session.run("text_encoder", {"input_ids": ids})
    for layer, state in enumerate(expected[:-1]):
        np.testing.assert_allclose(got["normalized_hidden_states"][:, layer], state, atol=2e-5)
    np.testing.assert_allclose(got["last_hidden_state"], expected[-1], atol=2e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clip_skip": 4}, "clip_skip: got 4, expected a whole number from 0 to 3"),
        ({"clip_skip": -1}, "clip_skip: got -1, expected a whole number from 0 to 3"),
        ({"clip_skip": 0.5}, "clip_skip: got 0.5, expected a whole number"),
        (
            {"clip_skip": 1, "prompt": None, "prompt_embeds": np.zeros((1, 77, 128), np.float32)},
            "clip_skip: no encoder runs with prompt_embeds; leave it out",
        ),
    ],
)
def test_wrong_arguments_are_named(emoji, arguments, message):
    with pytest.raises(InputError, match=message):
        emoji(**{"prompt": "x", "seed": 0, **arguments})


def test_a_bundle_without_the_states_says_so(emoji, monkeypatch):
    run = emoji.session.run

    def run_as_before(name, feeds):
        outputs = run(name, feeds)
        outputs.pop("normalized_hidden_states", None)
        return outputs

    monkeypatch.setattr(emoji.session, "run", run_as_before)
    with pytest.raises(InputError, match="clip_skip: the text encoder of this bundle gives its last hidden"):
        emoji("x", seed=0, clip_skip=1)
