"""Qwen-Image 2.1 against diffusers' own pipeline on a tiny random checkpoint, after every step."""

import inspect
import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from language_models import VISION_CHAT_TEMPLATE
from PIL import Image
from safetensors.torch import save_file
from system_pair import compare_system
from tiny_qwen_image import make_qwen_image_21
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import CheckpointError, ConfigError, InputError
from diffoundry.runtime.models.qwen3_vision import grid_corners, read_vision_layout
from diffoundry.runtime.models.qwen_image_21_transformer_2d import read_layout
from diffoundry.runtime.models.qwen_vision import patch_places

pytestmark = pytest.mark.slow

CLASS = "QwenImage21Pipeline"
WIDE = Image.effect_noise((300, 200), 90).convert("RGBA")
WIDE.putalpha(Image.radial_gradient("L").resize((300, 200)))
TALL = Image.effect_noise((90, 120), 60).convert("RGB")
SMALL = {"height": 64, "width": 96}
FEW = {"num_inference_steps": 3, "watch": False, "prompt": "a cat"}


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint(f"class-{CLASS}", make_qwen_image_21)


@pytest.fixture(scope="module")
def ours(exported, folder):
    return load(exported(folder, target="onnxruntime,openvino"), target="onnxruntime")


@pytest.fixture(scope="module")
def theirs(folder):
    return reference_pipeline(open_checkpoint(str(folder)))


CASES = {
    "a prompt": SMALL,
    "guided": {**SMALL, "negative_prompt": "a blue sky", "true_cfg_scale": 3.0},
    "an empty prompt": {"prompt": "", "height": 96, "width": 64},
    "several results": {
        **SMALL,
        "prompt": ["a cat", "a cat"],
        "num_images_per_prompt": 2,
        "negative_prompt": ["x", "x"],
        "true_cfg_scale": 2.0,
    },
    "an image": {"image": WIDE, "output_resolution": 96},
    "three images": {
        "image": [WIDE, TALL, TALL],
        "output_resolution": 128,
        "negative_prompt": "blue",
        "true_cfg_scale": 2.0,
    },
    "an image for several results": {"image": TALL, "output_resolution": 128, "num_images_per_prompt": 2, **SMALL},
}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(exported, folder, theirs, target):
    pipe = load(exported(folder, target="onnxruntime,openvino"), target=target)
    for case in CASES.values():
        compare_system(pipe, theirs, **{**FEW, **case})


def test_sizes_follow_from_the_last_image(ours):
    shapes = [np.asarray(ours("a", num_inference_steps=2, output_type="np", **case).images).shape for case in (
        {"image": [TALL, WIDE], "output_resolution": 96}, {"output_resolution": 96}
    )]  # fmt: skip
    assert shapes == [(1, 64, 128, 4), (1, 96, 96, 4)]


def test_a_result_does_not_depend_on_longer_prompts_beside_it(ours):
    """diffusers counts the padding of a shorter prompt as tokens, so that its result depends on the others'."""
    call = {"num_inference_steps": 2, "output_type": "np", **SMALL}
    texts = ["a cat", "a very long description of a red apple on the table"]
    several = ours(texts, seed=[3, 4], **call).images
    for index, text in enumerate(texts):
        (alone,) = ours(text, seed=3 + index, **call).images
        np.testing.assert_allclose(several[index], alone, atol=1e-5)


def test_a_cut_transformer_computes_the_text_once(exported, folder, theirs):
    pipe = load(exported(folder, partition=True), target="onnxruntime")
    compare_system(pipe, theirs, **{**FEW, **CASES["three images"]})


def test_sigmas_of_the_checkpoint_are_the_default(exported, folder, tmp_path):
    """`sample_sigmas` of model_index.json sets the number of steps, as in diffusers."""
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    _change(own / "model_index.json", "sample_sigmas", [1.0, 0.6, 0.3])
    pipe, theirs = load(exported(own), target="onnxruntime"), reference_pipeline(open_checkpoint(str(own)))
    compare_system(pipe, theirs, **{**FEW, **SMALL})
    compare_system(pipe, theirs, **{**FEW, **SMALL, "sigmas": [1.0, 0.5]})
    with pytest.raises(
        InputError, match="num_inference_steps: got 5, expected 3: the checkpoint has sigmas of its own"
    ):
        pipe.start("a cat", num_inference_steps=5, **SMALL)
    broken = shutil.copytree(own, tmp_path / "broken")
    _change(broken / "model_index.json", "sample_sigmas", [0.3, 0.6])
    with pytest.raises(CheckpointError, match="field 'sample_sigmas': got .*, expected falling numbers above 0"):
        exported(broken)


def _change(path, name, value):
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))


def test_images_have_transparency(ours, theirs):
    call = {"num_inference_steps": 2, **SMALL}
    (image,) = ours("a cat", seed=0, **call).images
    with torch.no_grad():
        (expected,) = theirs(prompt="a cat", generator=torch.Generator().manual_seed(0), **call).images
    assert (image.mode, image.size) == (expected.mode, expected.size) == ("RGBA", (96, 64))
    assert np.abs(np.asarray(image, np.int16) - np.asarray(expected, np.int16)).max() <= 1


def test_defaults_are_diffusers(ours):
    parameters = inspect.signature(getattr(diffusers, CLASS).__call__).parameters
    given = ours.start("a cat", seed=0).arguments
    for name in ("num_inference_steps", "true_cfg_scale", "output_resolution"):
        assert given[name] == parameters[name].default, name
    assert (given["height"], given["width"]) == (1024, 1024)


EMBEDS = np.zeros((1, 4, 32), np.float32)
ERRORS = {
    "no images": ({"image": []}, "image: got an empty list, expected at least one image; leave it out to use none"),
    "an array": ({"image": np.zeros((64, 64, 4))}, "image: got ndarray, expected PIL images"),
    "a small resolution": ({"output_resolution": 16}, "output_resolution: got 16, expected a whole number"),
    "half a resolution": ({"output_resolution": 64.5}, "output_resolution: got 64.5, expected a whole number"),
    "a narrow image": (
        {"image": TALL.resize((300, 40)), "output_resolution": 32},
        "image: got 300 x 40 pixels, expected sides that have at least 32 pixels where the image has about 1024",
    ),
    "a guidance scale": ({"guidance_scale": 3.0}, "guidance_scale: got 3, expected none: this checkpoint is not"),
    "an odd size": ({"height": 80}, "height: got 80, expected a multiple of 32"),
    "hidden states": (
        {"prompt": None, "prompt_embeds": EMBEDS, "image": TALL, "output_resolution": 96},
        "prompt_embeds: got hidden states beside image, expected a prompt, which is read with it",
    ),
    "an image's token": (
        {"prompt": "<|image_pad|>"}, r"prompt: got a text with <\|image_pad\|>, expected one without it"
    ),
    "a tiny image": (
        {"image": TALL, "output_resolution": 32},
        "output_resolution: got images of 32 x 32 pixels with it, expected ones that processor",
    ),
}  # fmt: skip


def test_wrong_arguments_are_refused(ours, monkeypatch):
    monkeypatch.setattr(ours.family._vision, "processor", _least_64(ours.family._vision.processor))
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours.start(**{"prompt": "a cat", **arguments})
    monkeypatch.setattr(type(ours.denoiser), "token_limit", 2)
    with pytest.raises(InputError, match=r"prompt: got \d+ tokens, expected at most 2: the engine of 'transf"):
        ours.start("a cat")


def _least_64(processor):
    from dataclasses import replace

    return replace(processor, least=64 * 64)


def test_generate_takes_several_images(exported, folder, ours, tmp_path):
    WIDE.save(tmp_path / "wide.png")
    TALL.save(tmp_path / "tall.png")
    files = [item for name in ("wide", "tall") for item in ("--image", str(tmp_path / f"{name}.png"))]
    own = ["--output-resolution", "96", "--negative-prompt", "blue", "--true-cfg-scale", "2"]
    words = [str(exported(folder, target="onnxruntime,openvino")), "a cat", *files, "--steps", "2", "--seed", "5", *own]
    result = CliRunner().invoke(generate, [*words, "--target", "onnxruntime", "-o", str(tmp_path / "out.png")])
    assert result.exit_code == 0, result.output
    call = {"output_resolution": 96, "negative_prompt": "blue", "true_cfg_scale": 2.0, "num_inference_steps": 2}
    (expected,) = ours("a cat", image=[WIDE, TALL], seed=5, **call).images
    with Image.open(tmp_path / "out.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    refused = CliRunner().invoke(generate, [*words, "-o", str(tmp_path / "out.jpg")])
    assert "out.jpg: got the suffix '.jpg', expected one of .png, .webp" in str(refused.exception)


def test_another_chat_template_is_refused(exported, folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "processor" / "chat_template.jinja").write_text(VISION_CHAT_TEMPLATE.replace("<|im_start|>", "[INST]"))
    with pytest.raises(
        CheckpointError, match=r"got a chat template with '\[INST\].*' before a prompt, expected one that ends"
    ):
        exported(other)


def test_learned_positions_are_transformers():
    for rows, columns in ((1, 3), (4, 6)):
        corners, weights = grid_corners(patch_places(rows, columns, 2), 2 * rows, 2 * columns, 5)
        grid = torch.tensor([[1, 2 * rows, 2 * columns]])
        taps, parts = get_vision_interpolation_indices_and_weights(grid, 5, "bilinear", True, 2)
        expected = np.zeros((2, rows * columns * 4, 25))
        for found, (indices, factors) in zip(expected, ((corners, weights), (taps, parts)), strict=True):
            for row, (places, values) in enumerate(
                zip(np.asarray(indices).reshape(-1, 4), np.asarray(factors).reshape(-1, 4), strict=True)
            ):
                np.add.at(found[row], places, values)
        np.testing.assert_allclose(*expected, atol=1e-6)


CONFIGS = {
    "patch_size": (2, "1, as the pipeline of diffusers passes latents"),
    "causal_condition": (False, "true: no other network of this class is supported"),
    "out_channels": (4, "8, the in_channels"),
}


def test_other_networks_are_refused(ours):
    config = ours.denoiser._config
    for name, (value, words) in CONFIGS.items():
        with pytest.raises(ConfigError, match=f"field '{name}': got .*, expected {words}"):
            read_layout({**config, name: value}, "transformer/config.json")
    for vision, words in (
        (None, "field 'vision_config': got null, expected an object: a pipeline that sees images needs"),
        ({"hidden_size": 30, "num_heads": 4}, "field 'hidden_size': got 30, expected a multiple of 16, four for each"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_vision_layout({"vision_config": vision}, "text_encoder/config.json")


VAES = {
    "dim_mult": ([1, 1, 1, 2], "a list of 5, as the pipeline has 16 pixels to a latent"),
    "temperal_downsample": ([True], "a list of 4, one less than dim_mult"),
    "attn_scales": ([1.0], r"\[\]: the pipeline of diffusers cannot run other networks"),
    "patch_size": (2, "null: the pipeline of diffusers cannot run other networks"),
}


def test_other_vaes_are_refused(folder, tmp_path):
    for name, (value, words) in VAES.items():
        other = tmp_path / name
        shutil.copytree(folder, other)
        _change(other / "vae" / "config.json", name, value)
        with pytest.raises(ConfigError, match=f"vae/config.json: field '{name}': got .*, expected {words}"):
            open_checkpoint(str(other))


def test_loras_change_both_parts_of_the_sequence(exported, folder, tmp_path):
    """A layer that text and result share is changed for both, and comes back as it was."""
    theirs, random = reference_pipeline(open_checkpoint(str(folder))), torch.Generator().manual_seed(0)
    named = {}
    layers = {name: one for name, one in theirs.transformer.named_modules() if isinstance(one, torch.nn.Linear)}
    for name, layer in layers.items():
        named[f"transformer.{name}.lora_A.weight"] = torch.randn((2, layer.in_features), generator=random) / 4
        named[f"transformer.{name}.lora_B.weight"] = torch.randn((layer.out_features, 2), generator=random) * 0.1
    save_file(named, tmp_path / "style.safetensors")
    theirs.load_lora_weights(str(tmp_path / "style.safetensors"))
    for target in ("onnxruntime", "openvino"):
        pipe = load(exported(folder, target="onnxruntime,openvino"), target=target)
        settings = {**SMALL, "num_inference_steps": 2, "seed": 0, "output_type": "latent"}
        before = pipe("a cat", **settings).images
        report = pipe.loras.load(tmp_path / "style.safetensors")
        assert (report.layers, report.unused) == ({"transformer": len(layers)}, ())
        compare_system(pipe, theirs, **{**FEW, **CASES["three images"]})
        assert np.abs(pipe("a cat", **settings).images - before).max() > 0.03
        pipe.loras.unload()
        np.testing.assert_array_equal(pipe("a cat", **settings).images, before)
