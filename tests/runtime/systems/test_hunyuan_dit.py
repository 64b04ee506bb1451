"""Hunyuan-DiT against diffusers' own pipeline on a tiny random checkpoint, after every step."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import (
    SUPPORTED_SHAPE,
    get_resize_crop_region_for_grid,
    map_to_standard_shapes,
)
from system_pair import compare_system, open_theirs
from tiny_hunyuan_dit import WIDTH, make_hunyuan_dit

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.hunyuan_dit_2d import position_feeds

pytestmark = pytest.mark.slow

TWO = ["a red apple", "a very long snowman on the table"]
FEW = {"num_inference_steps": 3, "height": 32, "width": 48, "use_resolution_binning": False}
GUIDED = {"negative_prompt": ["blue", ""], "num_images_per_prompt": 2}


@pytest.fixture(scope="module")
def pipelines(exported, system_checkpoint):
    """Target to the pipeline."""
    bundle = exported(system_checkpoint("hunyuan-dit", make_hunyuan_dit), target="onnxruntime,openvino")
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


@pytest.fixture(scope="module")
def theirs(system_checkpoint):
    return open_theirs(system_checkpoint("hunyuan-dit", make_hunyuan_dit), "HunyuanDiTPipeline")


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pipelines, theirs, target):
    sizes = {"original_size": (64, 80), "target_size": (32, 32), "crops_coords_top_left": (3, 5)}
    for case in (
        {"prompt": TWO, "height": 80, "width": 16, "guidance_rescale": 0.7, **GUIDED},
        {"prompt": "a cat", "guidance_scale": 1.0, **sizes},
        {"prompt": "a cat"},
    )[: None if target == "onnxruntime" else 1]:
        compare_system(pipelines[target], theirs, **{**FEW, **case})


def test_positions_are_diffusers():
    for rows, columns in ((64, 64), (48, 80), (80, 48), (5, 1)):
        region = get_resize_crop_region_for_grid((rows, columns), 32)
        expected = get_2d_rotary_pos_embed(88, region, (rows, columns))
        given = position_feeds(rows, columns, 2, 88)
        for name, table in zip(("rotary_cos", "rotary_sin"), expected, strict=True):
            np.testing.assert_allclose(given[name].reshape(rows * columns, -1), table[:, ::2], atol=4e-6)


def test_sizes_are_diffusers(pipelines):
    family = pipelines["onnxruntime"].family
    inputs = family.Inputs(prompt="a cat")
    for size in ((1024, 1024), (512, 512), (700, 1500), (1280, 768), (1300, 900), (16, 4000)):
        width, height = map_to_standard_shapes(*size[::-1])
        expected = size if size in SUPPORTED_SHAPE else (height, width)
        assert family.choose_size(size, inputs) == expected
    assert pipelines["onnxruntime"].start("a cat", num_inference_steps=1).arguments["height"] == 1024


def test_embeddings_with_masks(pipelines, theirs):
    tensors = {}
    for index, ending in ((0, ""), (1, "_2")):
        made = theirs.encode_prompt(
            "a cat", negative_prompt="a blue dog", max_sequence_length=(77, 256)[index], text_encoder_index=index
        )
        kinds = ("prompt_embeds", "negative_prompt_embeds", "prompt_attention_mask", "negative_prompt_attention_mask")
        tensors |= {f"{kind}{ending}": tensor.detach() for kind, tensor in zip(kinds, made, strict=True)}
    compare_system(
        pipelines["onnxruntime"], theirs, **FEW,
        ours_only={name: tensor.numpy() for name, tensor in tensors.items()}, theirs_only=tensors,
    )  # fmt: skip


def test_a_callback_sees_and_changes_what_diffusers_does(pipelines, theirs):
    names = ["latents", "prompt_embeds", "prompt_embeds_2"]

    def change(_pipeline, index, _timestep, tensors):
        assert list(tensors) == names
        return {name: tensors[name] * (0.5 if index == 0 else 1.0) for name in names[1:]}

    arguments = {
        **FEW, "output_type": "latent", "callback_on_step_end": change, "callback_on_step_end_tensor_inputs": names,
    }  # fmt: skip
    given = pipelines["onnxruntime"]("a cat", seed=0, **arguments).images
    expected = theirs("a cat", generator=torch.Generator().manual_seed(0), **arguments).images
    np.testing.assert_allclose(given, expected.numpy(), atol=1e-4 * np.abs(expected.numpy()).max())


def test_defaults_are_diffusers(pipelines):
    ours = pipelines["onnxruntime"]
    fields = ("original_size", "target_size", "crops_coords_top_left", "use_resolution_binning")
    own = {name: ours.family.Inputs.__dataclass_fields__[name].default for name in fields}
    parameters = inspect.signature(diffusers.HunyuanDiTPipeline.__call__).parameters
    for argument, value in {**own, **ours.family.defaults["text_to_image"]}.items():
        assert parameters[argument].default == value, argument
    assert ours.default_size == (64, 64)


def test_a_network_without_sizes_of_another_version(exported, system_checkpoint):
    def make(folder):
        make_hunyuan_dit(folder, use_style_cond_and_image_meta_size=False, learn_sigma=True)

    folder = system_checkpoint("hunyuan-dit-1.2", make)
    theirs = open_theirs(folder, "HunyuanDiTPipeline")
    compare_system(load(exported(folder), target="onnxruntime"), theirs, prompt=TWO, **FEW, **GUIDED)


def test_wrong_arguments_are_refused(pipelines):
    ours = pipelines["onnxruntime"]
    embeds, mask = np.zeros((1, 77, WIDTH), np.float32), np.ones((1, 77))
    for arguments, words in (
        ({"prompt": "a cat", "height": 40, "width": 16}, "height: got 40, expected a multiple of 16"),
        ({"prompt": "a cat", "original_size": (5,)}, r"original_size: got \(5,\), expected two whole numbers"),
        ({"prompt": "a cat", "use_resolution_binning": 1}, "use_resolution_binning: got 1, expected True or False"),
        ({"prompt_embeds": embeds}, "prompt_embeds and prompt_embeds_2: got one of them, expected both"),
        (
            {"prompt": "a cat", "prompt_attention_mask_2": mask},
            "prompt_attention_mask_2: got one without prompt_embeds",
        ),
        ({"prompt": "a cat", "max_sequence_length": 20}, "max_sequence_length: "),
    ):
        with pytest.raises(InputError, match=words):
            ours(**{**FEW, **arguments})
