"""PixArt on other targets: half precision, int8, Core ML by the interpreter, TensorRT for RTX by its builder."""

from functools import partial

import pytest
from system_pair import compare_system, open_theirs
from system_targets import (
    calibrate_int8,
    check_core_ml,
    check_half_precision,
    check_int8,
    check_tensorrt_rtx,
    check_verify,
    measure_beside_pytorch,
)
from tiny_pixart import make_pixart

from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SIZE = (64, 64)
PARTS = {"text_encoder", "transformer", "vae_decoder"}
SETTINGS = {
    "seed": 0, "num_inference_steps": 4, "height": 64, "width": 64, "output_type": "np", "use_resolution_binning": False
}  # fmt: skip
TOKENS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}


@pytest.fixture(params=list(TOKENS))
def name(request):
    return request.param


@pytest.fixture
def folder(system_checkpoint, name):
    return system_checkpoint(name, lambda folder: make_pixart(folder, name))


@pytest.mark.parametrize(("target", "precision"), [("onnxruntime", "fp16"), ("openvino", "bf16")])
def test_half_precision_stays_close(exported, folder, target, precision):
    check_half_precision(partial(exported, folder), SETTINGS, target, precision)


def test_every_step_is_diffusers_on_openvino(exported, folder, name):
    ours, theirs = load(exported(folder, target="openvino")), open_theirs(folder, name)
    for size, prompts in (((64, 128), "a cat"), ((96, 64), ["a cat", "a red apple on the table"])):
        compare_system(
            ours, theirs, prompt=prompts, negative_prompt="blue", num_images_per_prompt=2, num_inference_steps=3,
            height=size[0], width=size[1], use_resolution_binning=False,
        )  # fmt: skip


def test_int8_is_calibrated(exported, folder):
    bundle = calibrate_int8(partial(exported, folder), 15, height=64, width=64)
    check_int8(*(load(bundle, precision=one)("a cat", **SETTINGS).images for one in ("fp32", "int8")), 15)


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder, name):
    bundle = exported(folder, target="onnxruntime,coreml", buckets=(SIZE,))
    (engine,) = (spec for spec in Bundle(bundle).engines("transformer") if spec.target == "coreml")
    shapes = {spec.name: spec.shape for spec in engine.inputs}
    assert shapes["encoder_attention_mask"][1] == TOKENS[name]
    assert shapes["position_rows"] == shapes["position_columns"] == (4, 12)
    check_core_ml(bundle)


def test_engines_of_other_sizes_than_those_of_the_training(exported, folder):
    pipeline = load(exported(folder, target="onnxruntime,openvino", buckets=(SIZE,)))
    own = pipeline.default_size[0]
    with pytest.raises(InputError, match=f"got True, which generates {own}x{own}, .* pass False to generate 64x64"):
        pipeline("a cat", **{**SETTINGS, "use_resolution_binning": True})


def test_tensorrt_for_rtx_builds_every_network(exported, folder):
    assert check_tensorrt_rtx(lambda **options: exported(folder, buckets=(SIZE,), **options)) == PARTS


def test_verify_passes_every_check(exported, folder):
    for compared in check_verify(exported(folder, target="onnxruntime,openvino", buckets=(SIZE,))):
        assert compared >= PARTS


def test_bundles_without_a_text_encoder_are_verified_and_measured(exported, folder):
    bundle = exported(folder, target="onnxruntime", without=("text_encoder",), buckets=(SIZE,))
    check_verify(bundle)
    measure_beside_pytorch(bundle, SIZE)


def test_bench_measures_both_beside_pytorch(exported, folder):
    measure_beside_pytorch(exported(folder, target="onnxruntime,openvino", buckets=(SIZE,)), SIZE)
