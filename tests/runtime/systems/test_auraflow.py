"""AuraFlow against diffusers' own pipeline on a tiny random checkpoint, after every step."""

import inspect

import diffusers
import numpy as np
import pytest
from system_pair import compare_system, open_theirs
from tiny_auraflow import WIDTH, make_auraflow

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

pytestmark = pytest.mark.slow

AURAFLOW = "AuraFlowPipeline"
TWO = ["a cat", "a red apple on the table"]
FEW = {"num_inference_steps": 3, "max_sequence_length": 20, "height": 16, "width": 24}


@pytest.fixture(scope="module")
def pipelines(exported, system_checkpoint):
    """Target to the pipeline."""
    bundle = exported(system_checkpoint("auraflow", make_auraflow), target="onnxruntime,openvino")
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


@pytest.fixture(scope="module")
def theirs(system_checkpoint):
    return open_theirs(system_checkpoint("auraflow", make_auraflow), AURAFLOW)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pipelines, theirs, target):
    guided = {"negative_prompt": ["blue", ""], "num_images_per_prompt": 2}
    for case in (
        {"prompt": TWO, "height": 52, "width": 12, **guided},
        {"prompt": "a very long snowman " * 9, "guidance_scale": 1.0},
        {"prompt": "a cat", "max_sequence_length": 256, "sigmas": [1.0, 0.6]},
    )[: None if target == "onnxruntime" else 2]:
        compare_system(pipelines[target], theirs, **{**FEW, **case})


def test_embeddings(pipelines, theirs):
    names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
    made = theirs.encode_prompt("a cat", "a blue dog", max_sequence_length=9)
    tensors = {name: tensor.detach() for name, tensor in zip(names, made, strict=True)}
    masks = {name: np.ones((1, 9)) for name in names if "mask" in name}
    compare_system(
        pipelines["onnxruntime"], theirs, height=16, width=24, num_inference_steps=2,
        ours_only={**{name: tensor.numpy() for name, tensor in tensors.items()}, **masks}, theirs_only=tensors,
    )  # fmt: skip


def test_positions_are_diffusers(pipelines, theirs):
    own = pipelines["onnxruntime"].denoiser
    for rows, columns in ((1, 13), (4, 7), (13, 6)):
        expected = theirs.transformer.pos_embed.pe_selection_index_based_on_dim(2 * rows, 2 * columns)
        np.testing.assert_array_equal(own.position_ids(rows, columns).ravel(), expected)


def test_defaults_are_diffusers(pipelines):
    ours = pipelines["onnxruntime"]
    defaults = {"max_sequence_length": 256, **ours.family.defaults["text_to_image"]}
    parameters = inspect.signature(diffusers.AuraFlowPipeline.__call__).parameters
    assert {argument: parameters[argument].default for argument in defaults} == defaults
    assert ours.default_size == (52, 52), "as many as the table has"
    assert parameters["height"].default == 1024


def test_wrong_arguments_are_refused(pipelines):
    ours = pipelines["onnxruntime"]
    embeds = np.zeros((1, 9, WIDTH), np.float32)
    for arguments, words in (
        ({"prompt": "a cat", "height": 56, "width": 16}, "height: got 56, expected"),
        ({"prompt": "a cat", "height": 18, "width": 16}, "height: got 18, expected a multiple of 4"),
        ({"prompt_embeds": embeds}, r"prompt_attention_mask: got none with prompt_embeds, expected one \(1, 9\)"),
        ({"prompt": "a cat", "image": embeds}, "image: "),
        ({"prompt": "a cat", "max_sequence_length": 1}, "max_sequence_length: got 1, expected a whole number of at"),
    ):
        with pytest.raises(InputError, match=words):
            ours(**arguments)
