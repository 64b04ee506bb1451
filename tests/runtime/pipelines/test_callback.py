"""`callback_on_step_end` against diffusers: what it is given, what it changes, what is refused."""

import numpy as np
import pytest
import torch
from pipeline_harness import diffusers_pipeline

from diffoundry.runtime.errors import InputError


def follow(pipe, prompt, change, names, **arguments):
    """Everything that a callback is given, and the latents in the end, of ours or of diffusers'."""
    seen = []

    def callback(given, index, timestep, tensors):
        assert given is pipe
        assert list(tensors) == list(names)
        arrays = {name: np.array(value) for name, value in tensors.items()}
        seen.append((index, float(timestep), arrays))
        return change(index, tensors)

    seed = {"generator": torch.Generator().manual_seed(0)} if hasattr(pipe, "unet") else {"seed": 0}
    arguments = {"num_inference_steps": 5, "output_type": "latent", **arguments}
    latents = pipe(
        prompt, **seed, **arguments, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=list(names)
    ).images
    return seen, np.asarray(latents)


def change(index, tensors):
    """Another image from the second step on, another prompt from the fourth on."""
    changed = {"latents": tensors["latents"] * 0.9} if index == 1 else {}
    if index == 3:
        changed |= {name: values * 0.5 for name, values in tensors.items() if name != "latents"}
    return changed


def check(ours, theirs, names, **arguments):
    got, expected = (follow(pipe, "a red apple", change, names, **arguments) for pipe in (ours, theirs))
    for (index, timestep, tensors), (their_index, their_timestep, their_tensors) in zip(
        got[0], expected[0], strict=True
    ):
        assert (index, timestep) == (their_index, their_timestep)
        for name in names:
            np.testing.assert_allclose(
                tensors[name], their_tensors[name], atol=1e-4 * np.abs(their_tensors[name]).max()
            )
    np.testing.assert_allclose(got[1], expected[1], atol=1e-4 * np.abs(expected[1]).max())
    plain = follow(ours, "a red apple", lambda *_: {}, names, **arguments)[1]
    assert np.abs(plain - got[1]).max() > 1e-2


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_stable_diffusion(emoji, emoji_openvino, emoji_folder, target):
    ours = emoji if target == "onnxruntime" else emoji_openvino
    theirs = diffusers_pipeline(emoji_folder)
    check(ours, theirs, ["latents", "prompt_embeds"], negative_prompt="blue")
    check(ours, theirs, ["latents", "prompt_embeds"], guidance_scale=1.0, num_images_per_prompt=2)


def test_stable_diffusion_xl(xl):
    check(*xl, ["latents", "prompt_embeds", "add_text_embeds", "add_time_ids"], negative_prompt="blue")


def test_steps_show_what_the_callback_made(emoji):
    arguments = {"seed": 0, "num_inference_steps": 3, "callback_on_step_end": lambda *_: {"latents": zeros}}
    zeros = np.zeros((1, 4, 8, 8), np.float32)
    for step in emoji.start("a red apple", **arguments):
        assert not step.latents.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"callback_on_step_end": 3}, "callback_on_step_end: got int, expected a function"),
        (
            {"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["latents", "add_time_ids"]},
            "callback_on_step_end_tensor_inputs: got 'add_time_ids', expected a list of latents, prompt_embeds",
        ),
        (
            {"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": "latents"},
            "callback_on_step_end_tensor_inputs: got 'latents', expected a list of",
        ),
        ({"callback_on_step_end": lambda *_: None}, "it returned NoneType, expected a dict; return callback_kwargs"),
        (
            {"callback_on_step_end": lambda *_: {"prompt_embeds": 1}},
            "returned 'prompt_embeds', expected some of latents",
        ),
        (
            {"callback_on_step_end": lambda *_: {"latents": np.zeros((1, 4, 4, 4), np.float32)}},
            r"it returned 'latents' of \(1, 4, 4, 4\), expected floats \(1, 4, 8, 8\)",
        ),
    ],
)
def test_what_is_refused(emoji, arguments, message):
    with pytest.raises(InputError, match=message):
        emoji("x", seed=0, num_inference_steps=2, **arguments)
