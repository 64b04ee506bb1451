"""Perturbed-attention guidance of PixArt-Sigma against diffusers' own pipeline, after every step."""

import inspect

import diffusers
import numpy as np
import pytest
from click.testing import CliRunner
from PIL.Image import open as open_image
from system_pair import compare_system, open_theirs
from system_targets import check_core_ml, check_tensorrt_rtx, check_verify
from tiny_pixart import make_pixart

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.systems.perturbed_attention import scale_at

pytestmark = pytest.mark.slow

NAME = "PixArtSigmaPAGPipeline"
SETTINGS = {"num_inference_steps": 3, "use_resolution_binning": False, "max_sequence_length": 20}
TWO = {"prompt": ["a cat", "a red apple"], "negative_prompt": ["blue", "a dog"], "num_images_per_prompt": 2}


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("pixart-pag", lambda folder: make_pixart(folder, NAME))


@pytest.fixture(scope="module")
def ours(exported, folder):
    bundle = exported(folder, target="onnxruntime,openvino")
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


def test_every_step_is_diffusers(ours, folder):
    theirs = open_theirs(folder, NAME)
    for target, pipeline in ours.items():
        compare_system(pipeline, theirs, **SETTINGS, **TWO, height=64, width=48)
        if target == "onnxruntime":
            compare_system(pipeline, theirs, **SETTINGS, prompt="a cat", guidance_scale=1.0, height=64, width=96)
            compare_system(pipeline, theirs, **SETTINGS, prompt="a cat", pag_scale=0.0, height=64, width=64)
    theirs.set_pag_applied_layers(["blocks.(0|1)"])
    own = {"pag_applied_layers": ["blocks.0", "blocks.1"]}
    compare_system(ours["onnxruntime"], theirs, **SETTINGS, prompt="a cat", height=64, width=64, ours_only=own)


def test_the_adaptive_scale_is_diffusers(ours):
    mixin = type("Mixin", (diffusers.pipelines.pag.pag_utils.PAGMixin,), {"pag_applied_layers": ["blocks.1"]})()
    for scale, fall in ((3.0, 0.0), (3.0, 0.004), (2.0, 0.01)):
        mixin._pag_scale, mixin._pag_adaptive_scale = scale, fall
        inputs = ours["onnxruntime"].Inputs(prompt="a cat", pag_scale=scale, pag_adaptive_scale=fall)
        for timestep in (999, 500, 1):
            assert scale_at(inputs, timestep) == pytest.approx(mixin._get_pag_scale(timestep))


def test_defaults_are_diffusers(ours):
    kind = diffusers.PixArtSigmaPAGPipeline
    own = ours["onnxruntime"].Inputs.__dataclass_fields__
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
            {"pag_applied_layers": "blocks.2"},
            "pag_applied_layers: got 'blocks.2', which fits no layer, expected names",
        ),
        (
            {"pag_applied_layers": "blocks.("},
            "pag_applied_layers: got .*, expected names of layers such as",
        ),
    ):
        with pytest.raises(InputError, match=words):
            ours["onnxruntime"]("a cat", height=64, width=64, **SETTINGS, **arguments)


def test_generate(ours, tmp_path):
    pipeline = ours["onnxruntime"]
    options = [
        "--steps=2", "--seed=3", "--height=64", "--width=64", "--no-resolution-binning", "--pag-scale=2",
        "--pag-adaptive-scale=0.001", "--pag-layers=blocks.0", "--target=onnxruntime", f"-o{tmp_path}/out.png",
    ]  # fmt: skip
    told = CliRunner().invoke(generate, [str(pipeline.session.bundle.root), "a cat", *options])
    assert told.exit_code == 0, told.output
    (image,) = pipeline(
        "a cat", num_inference_steps=2, seed=3, height=64, width=64, use_resolution_binning=False, pag_scale=2.0,
        pag_adaptive_scale=0.001, pag_applied_layers=["blocks.0"],
    ).images  # fmt: skip
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "out.png")), np.asarray(image))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_other_targets(exported, folder):
    size = {"buckets": ((64, 64),)}
    check_core_ml(exported(folder, target="onnxruntime,coreml", **size))
    assert "transformer" in check_tensorrt_rtx(lambda **options: exported(folder, **size, **options))
    for compared in check_verify(exported(folder, target="onnxruntime,openvino", **size)):
        assert "transformer" in compared
