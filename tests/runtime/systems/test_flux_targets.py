"""FLUX.1 on other targets: half precision, int8, weights of 4 bits, Core ML, TensorRT for RTX, verify and bench."""

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
from tiny_flux import DEV, SCHNELL, make_flux

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import DimSpec
from diffoundry.runtime.pipelines.example_inputs import CONTROL, CONTROL_MODE, make_example_inputs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SIZE = (32, 32)
PARTS = {"text_encoder", "text_encoder_2", "transformer", "vae_encoder", "vae_decoder"}
SETTINGS = {
    "seed": 0, "num_inference_steps": 4, "height": 32, "width": 32, "output_type": "np",
    "negative_prompt": "blue", "true_cfg_scale": 2.0,
}  # fmt: skip


@pytest.fixture
def folder(system_checkpoint):
    return system_checkpoint("flux-dev", lambda folder: make_flux(folder, **DEV))


@pytest.fixture
def schnell(system_checkpoint):
    return system_checkpoint("flux-schnell", lambda folder: make_flux(folder, scheduler={}, **SCHNELL))


@pytest.mark.parametrize(("target", "precision"), [("onnxruntime", "fp16"), ("openvino", "bf16")])
def test_half_precision_stays_close(exported, folder, target, precision):
    check_half_precision(partial(exported, folder), SETTINGS, target, precision)


def test_int8_is_calibrated(exported, folder):
    bundle = calibrate_int8(partial(exported, folder), 15, height=32, width=32)
    check_int8(*(load(bundle, precision=one)("a cat", **SETTINGS).images for one in ("fp32", "int8")), 15)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["folder", "controlnet"])
def test_weights_of_few_bits_stay_close(exported, target, name, request):
    place = request.getfixturevalue(name)
    request = QuantizationRequest(
        budget=Budget(min_psnr=15), prompts=("cat",), held_out=("apple",), steps=4, height=32, width=32
    )
    words = ("int8-weights", "int4-weights")
    bundle = exported(place, target=target, precision=f"fp32,{','.join(words)}", quantization=request)
    given = {**SETTINGS, **(make_example_inputs([CONTROL, CONTROL_MODE], *SIZE) if name == "controlnet" else {})}
    images = {word: load(bundle, target=target, precision=word)("a cat", **given).images for word in ("fp32", *words)}
    for word in words:
        check_int8(images["fp32"], images[word], 15)


@pytest.fixture
def fill(system_checkpoint):
    name = "FluxFillPipeline"
    return system_checkpoint(
        "flux-fill", lambda folder: make_flux(folder, name, in_channels=48, out_channels=16, **DEV)
    )


@pytest.fixture
def kontext(system_checkpoint):
    return system_checkpoint("flux-kontext", lambda folder: make_flux(folder, "FluxKontextPipeline", **DEV))


@pytest.fixture
def control(system_checkpoint):
    options = {"in_channels": 32, "out_channels": 16, **DEV}
    return system_checkpoint("flux-control", lambda folder: make_flux(folder, "FluxControlPipeline", **options))


@pytest.fixture
def controlnet(system_checkpoint):
    return system_checkpoint("flux-controlnet", lambda folder: make_flux(folder, "FluxControlNetPipeline", **DEV))


@pytest.mark.parametrize("name", ["folder", "fill", "kontext", "control", "controlnet"])
def test_core_ml_has_the_numbers_of_onnx_runtime(exported, name, request):
    bundle = exported(request.getfixturevalue(name), target="onnxruntime,coreml", buckets=(SIZE,))
    (engine,) = (spec for spec in Bundle(bundle).engines("transformer") if spec.target == "coreml")
    shapes = {spec.name: spec.shape for spec in engine.inputs}
    assert shapes["encoder_hidden_states"][1] == 512
    assert shapes["rotary_cos"] == shapes["rotary_sin"] == (8, 8, 8)
    check_core_ml(bundle, (0, 3) if name == "controlnet" else (0, 50))


@pytest.mark.parametrize("name", ["folder", "fill", "kontext", "control", "controlnet"])
def test_tensorrt_for_rtx_builds_every_network(exported, name, request):
    folder = request.getfixturevalue(name)
    assert check_tensorrt_rtx(lambda **options: exported(folder, buckets=(SIZE,), **options)) == PARTS | (
        {"controlnet"} if name == "controlnet" else set()
    )


@pytest.mark.parametrize("name", ["folder", "schnell", "fill", "kontext", "control", "controlnet"])
def test_verify_passes_every_check(exported, name, request):
    side = DimSpec(min=16, max=32, multiple_of=4)
    sizes = {"dims": {"height": side, "width": side}} if name == "kontext" else {"buckets": (SIZE,)}
    bundle = exported(request.getfixturevalue(name), target="onnxruntime,openvino", **sizes)
    for compared in check_verify(bundle):
        assert compared >= PARTS - {"vae_encoder"}


def test_bench_measures_both_beside_pytorch(exported, folder):
    measure_beside_pytorch(exported(folder, target="onnxruntime,openvino", buckets=(SIZE,)), SIZE)
