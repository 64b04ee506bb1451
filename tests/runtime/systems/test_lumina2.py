"""Lumina-Image 2.0 against diffusers' own pipeline on a tiny random checkpoint, after every step."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL.Image import open as open_image
from system_pair import compare_system, open_theirs
from tiny_lumina2 import WIDTH, make_lumina2

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers import FlowMatchEulerDiscreteScheduler

pytestmark = pytest.mark.slow

TWO = ["a red apple", "a horse on the moon, on the table"]
FEW = {"num_inference_steps": 3, "max_sequence_length": 150, "height": 32, "width": 48}
GUIDED = {"negative_prompt": ["what", ""], "num_images_per_prompt": 2}


@pytest.fixture(scope="module")
def pipelines(exported, system_checkpoint):
    """Target to the pipeline."""
    bundle = exported(system_checkpoint("lumina2", make_lumina2), target="onnxruntime,openvino")
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


@pytest.fixture(scope="module")
def theirs(system_checkpoint):
    return open_theirs(system_checkpoint("lumina2", make_lumina2), "Lumina2Pipeline")


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pipelines, theirs, target):
    for case in (
        {"prompt": TWO, "height": 80, "width": 16, "cfg_trunc_ratio": 0.5, **GUIDED},
        {"prompt": "a red apple", "guidance_scale": 1.0},
        {"prompt": TWO, "cfg_normalization": False, "system_prompt": "describe", "max_sequence_length": 40},
        {"prompt": "a horse " * 90, "max_sequence_length": 256, "sigmas": [1.0, 0.6]},
    )[: None if target == "onnxruntime" else 1]:
        compare_system(pipelines[target], theirs, **{**FEW, **case})


def test_a_schedule_that_follows_the_channels(pipelines, theirs, monkeypatch):
    """diffusers takes the channels of latents for their number of tokens."""
    options = {"use_dynamic_shifting": True, "base_image_seq_len": 2, "max_image_seq_len": 8}
    monkeypatch.setattr(theirs, "scheduler", diffusers.FlowMatchEulerDiscreteScheduler(**options))
    own = FlowMatchEulerDiscreteScheduler(**options)
    compare_system(pipelines["onnxruntime"], theirs, prompt="a red apple", ours_only={"scheduler": own}, **FEW)


def test_embeddings_with_masks(pipelines, theirs):
    names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
    made = theirs.encode_prompt("a red apple", negative_prompt="a horse", max_sequence_length=99)
    tensors = {name: tensor.detach() for name, tensor in zip(names, made, strict=True)}
    compare_system(
        pipelines["onnxruntime"], theirs, height=32, width=48, num_inference_steps=2,
        ours_only={name: tensor.numpy() for name, tensor in tensors.items()}, theirs_only=tensors,
    )  # fmt: skip


def test_a_callback_sees_and_changes_what_diffusers_does(pipelines, theirs):
    def halve(_pipeline, index, _timestep, tensors):
        assert set(tensors) == {"latents", "prompt_embeds"}
        return {"prompt_embeds": tensors["prompt_embeds"] * (0.5 if index == 0 else 1.0)}

    arguments = {
        **FEW, "output_type": "latent", "guidance_scale": 1.0,
        "callback_on_step_end": halve, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }  # fmt: skip
    given = pipelines["onnxruntime"]("a red apple", seed=0, **arguments).images
    expected = theirs("a red apple", generator=torch.Generator().manual_seed(0), **arguments).images
    np.testing.assert_allclose(given, expected.numpy(), atol=1e-4)


def test_defaults_are_diffusers(pipelines):
    ours = pipelines["onnxruntime"]
    fields = ("system_prompt", "cfg_trunc_ratio", "cfg_normalization", "max_sequence_length")
    own = {name: ours.family.Inputs.__dataclass_fields__[name].default for name in fields}
    parameters = inspect.signature(diffusers.Lumina2Pipeline.__call__).parameters
    for argument, value in {**own, **ours.family.defaults["text_to_image"]}.items():
        assert parameters[argument].default == value, argument
    assert ours.default_size == (64, 64)


def test_generate(pipelines, tmp_path):
    ours = pipelines["onnxruntime"]
    words = "--system-prompt=describe", "--cfg-trunc-ratio=0.5", "--cfg-normalization=0", "--max-sequence-length=20"
    options = [*words, "--steps=2", "--seed=3", "--height=16", "--width=32", "--target=onnxruntime"]
    told = CliRunner().invoke(generate, [str(ours.session.bundle.root), "a horse", *options, f"-o{tmp_path}/out.png"])
    assert told.exit_code == 0, told.output
    (image,) = ours(
        "a horse", system_prompt="describe", cfg_trunc_ratio=0.5, cfg_normalization=False, max_sequence_length=20,
        num_inference_steps=2, seed=3, height=16, width=32,
    ).images  # fmt: skip
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "out.png")), np.asarray(image))


def test_wrong_arguments_are_refused(pipelines):
    ours = pipelines["onnxruntime"]
    embeds = np.zeros((1, 9, WIDTH), np.float32)
    for arguments, words in (
        ({"prompt": "a cat", "height": 272, "width": 16}, "height: got 272, expected"),
        ({"prompt": "a cat", "cfg_trunc_ratio": 2}, "cfg_trunc_ratio: got 2, expected a number of at least 0 and at"),
        ({"prompt": "a cat", "cfg_normalization": 0.5}, "cfg_normalization: got 0.5, expected True or False"),
        ({"prompt": "a cat", "system_prompt": 5}, "system_prompt: got 5, expected a text"),
        ({"prompt_embeds": embeds}, r"prompt_attention_mask: got none with prompt_embeds, expected one \(1, 9\)"),
        ({"prompt": "a cat", "max_sequence_length": 513}, "max_sequence_length: got 513, expected a whole number of"),
    ):
        with pytest.raises(InputError, match=words):
            ours(**arguments)
