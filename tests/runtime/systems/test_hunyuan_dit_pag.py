"""Perturbed-attention guidance of Hunyuan-DiT against diffusers' own pipeline, after every step."""

import inspect

import diffusers
import numpy as np
import pytest
from click.testing import CliRunner
from diffusers.models.attention_processor import PAGCFGHunyuanAttnProcessor2_0, PAGHunyuanAttnProcessor2_0
from PIL.Image import open as open_image
from system_pair import compare_system, open_theirs
from tiny_hunyuan_dit import make_hunyuan_dit

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import InputError

pytestmark = pytest.mark.slow

NAME = "HunyuanDiTPAGPipeline"
FEW = {"num_inference_steps": 3, "use_resolution_binning": False, "height": 32, "width": 48}
TWO = {"prompt": ["a cat", "a red apple"], "negative_prompt": ["blue", "a dog"], "num_images_per_prompt": 2}


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("hunyuan-dit-pag", lambda folder: make_hunyuan_dit(folder, NAME))


@pytest.fixture(scope="module")
def ours(exported, folder):
    bundle = exported(folder, target="onnxruntime,openvino")
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


def test_every_step_is_diffusers(ours, folder):
    theirs = open_theirs(folder, NAME)
    for pipeline in ours.values():
        compare_system(pipeline, theirs, **FEW, **TWO, guidance_rescale=0.7, pag_adaptive_scale=0.004)
    runtime = ours["onnxruntime"]
    alone = {**FEW, "height": 64, "width": 16, "prompt": "a cat"}
    compare_system(runtime, theirs, **alone, pag_scale=0.0)
    own = PAGCFGHunyuanAttnProcessor2_0(), PAGHunyuanAttnProcessor2_0()  # others lose the rotary positions
    theirs.set_pag_applied_layers(["blocks.(0|3)"], pag_attn_processors=own)
    compare_system(runtime, theirs, **alone, ours_only={"pag_applied_layers": ["blocks.0", "blocks.3"]})


@pytest.mark.slow
def test_without_a_negative_prompt(exported, system_checkpoint):
    """Of a network without sizes: diffusers' pipeline repeats sizes as often as with a negative prompt, and fails."""

    def make(folder):
        make_hunyuan_dit(folder, NAME, use_style_cond_and_image_meta_size=False)

    folder = system_checkpoint("hunyuan-dit-pag-1.2", make)
    compare_system(load(exported(folder)), open_theirs(folder, NAME), prompt="a cat", guidance_scale=1.0, **FEW)


def test_defaults_are_diffusers(ours):
    kind = getattr(diffusers, NAME)
    own = ours["onnxruntime"].family.Inputs.__dataclass_fields__
    for method, names in (
        (kind.__call__, ("pag_scale", "pag_adaptive_scale")),
        (kind.__init__, ("pag_applied_layers",)),
    ):
        for name in names:
            assert own[name].default == inspect.signature(method).parameters[name].default


def test_wrong_arguments_are_refused(ours):
    for arguments, words in (
        ({"pag_scale": -1.0}, "pag_scale: got -1.0, expected a number of at least 0"),
        (
            {"pag_applied_layers": "blocks.7"},
            "pag_applied_layers: got 'blocks.7', which fits no layer, expected names such as 'blocks.0' to 'blocks.3'",
        ),
    ):
        with pytest.raises(InputError, match=words):
            ours["onnxruntime"]("a cat", **FEW, **arguments)


def test_generate(ours, tmp_path):
    pipeline = ours["onnxruntime"]
    options = [
        "--steps=2", "--seed=3", "--height=32", "--width=48", "--no-resolution-binning", "--pag-scale=2",
        "--pag-layers=blocks.0", "--target=onnxruntime", f"-o{tmp_path}/out.png",
    ]  # fmt: skip
    told = CliRunner().invoke(generate, [str(pipeline.session.bundle.root), "a cat", *options])
    assert told.exit_code == 0, told.output
    few = {**FEW, "num_inference_steps": 2}
    (image,) = pipeline("a cat", seed=3, pag_scale=2.0, pag_applied_layers=["blocks.0"], **few).images
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "out.png")), np.asarray(image))
