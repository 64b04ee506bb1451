"""Qwen-Image on other targets: half precision, int8, weights of 4 bits, Core ML, TensorRT for RTX, verify and bench."""

from functools import partial

import pytest
from system_targets import (
    calibrate_int8,
    check_core_ml,
    check_half_precision,
    check_int8,
    check_tensorrt_rtx,
    check_verify,
    measure_beside_pytorch,
)
from tiny_qwen_image import make_qwen_image

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SIZE = (32, 32)
PARTS = {"text_encoder", "transformer", "vae_encoder", "vae_decoder"}
SETTINGS = {
    "seed": 0, "num_inference_steps": 4, "height": 32, "width": 32, "output_type": "np", "negative_prompt": "blue",
}  # fmt: skip


@pytest.fixture
def folder(system_checkpoint):
    return system_checkpoint("qwen-image", make_qwen_image)


@pytest.mark.parametrize(("target", "precision"), [("onnxruntime", "fp16"), ("openvino", "bf16")])
def test_half_precision_stays_close(exported, folder, target, precision):
    check_half_precision(partial(exported, folder), SETTINGS, target, precision)


def test_int8_is_calibrated(exported, folder):
    bundle = calibrate_int8(partial(exported, folder), 15, height=32, width=32)
    check_int8(*(load(bundle, precision=one)("a cat", **SETTINGS).images for one in ("fp32", "int8")), 15)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_weights_of_few_bits_stay_close(exported, folder, target):
    request = QuantizationRequest(
        budget=Budget(min_psnr=15), prompts=("cat",), held_out=("apple",), steps=4, height=32, width=32
    )
    words = ("int8-weights", "int4-weights")
    bundle = exported(folder, target=target, precision=f"fp32,{','.join(words)}", quantization=request)
    images = {
        word: load(bundle, target=target, precision=word)("a cat", **SETTINGS).images for word in ("fp32", *words)
    }
    for word in words:
        check_int8(images["fp32"], images[word], 15)


@pytest.fixture
def controlnet(system_checkpoint):
    name = "QwenImageControlNetPipeline"
    return system_checkpoint("qwen-image-controlnet", lambda folder: make_qwen_image(folder, name))


NAMES = ("folder", "controlnet")


@pytest.mark.parametrize("name", NAMES)
def test_core_ml_has_the_numbers_of_onnx_runtime(exported, name, request):
    bundle = exported(request.getfixturevalue(name), target="onnxruntime,coreml", buckets=(SIZE,))
    (engine,) = (spec for spec in Bundle(bundle).engines("transformer") if spec.target == "coreml")
    shapes = {spec.name: spec.shape for spec in engine.inputs}
    assert shapes["encoder_hidden_states"][1] == 512
    assert shapes["rotary_cos"] == shapes["rotary_sin"] == (8, 8, 8)
    check_core_ml(bundle)


@pytest.mark.parametrize("name", NAMES)
def test_tensorrt_for_rtx_builds_every_network(exported, name, request):
    folder = request.getfixturevalue(name)
    built = check_tensorrt_rtx(lambda **options: exported(folder, buckets=(SIZE,), **options))
    assert built == PARTS | ({"controlnet"} if name == "controlnet" else set())


@pytest.mark.parametrize("name", NAMES)
def test_verify_passes_every_check(exported, name, request):
    bundle = exported(request.getfixturevalue(name), target="onnxruntime,openvino", buckets=(SIZE,))
    for compared in check_verify(bundle):
        assert compared >= PARTS - {"vae_encoder"}


def test_bench_measures_both_beside_pytorch(exported, folder):
    measure_beside_pytorch(exported(folder, target="onnxruntime,openvino", buckets=(SIZE,)), SIZE)
