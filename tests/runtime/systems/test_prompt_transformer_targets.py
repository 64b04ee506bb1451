"""Transformers that read a text encoder, on other targets: half precision, int8, 4 bits, Core ML, TensorRT, verify."""

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
from tiny_auraflow import make_auraflow
from tiny_chroma import make_chroma
from tiny_hunyuan_dit import make_hunyuan_dit
from tiny_lumina2 import make_lumina2
from tiny_z_image import make_z_image

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SIZE = (32, 32)
SETTINGS = {
    "seed": 0, "num_inference_steps": 4, "height": 32, "width": 32, "output_type": "np", "guidance_scale": 2.0,
}  # fmt: skip
MAKERS = {
    "chroma": make_chroma,
    "auraflow": make_auraflow,
    "z-image": make_z_image,
    "lumina2": make_lumina2,
    "hunyuan-dit": make_hunyuan_dit,
}
PARTS = {
    **{name: {"text_encoder", "transformer", "vae_encoder", "vae_decoder"} for name in ("chroma", "z-image")},
    **{name: {"text_encoder", "transformer", "vae_decoder"} for name in ("auraflow", "lumina2")},
    "hunyuan-dit": {"text_encoder", "text_encoder_2", "transformer", "vae_decoder"},
}
"""Networks of each family."""


@pytest.fixture(params=list(MAKERS))
def name(request):
    return request.param


@pytest.fixture
def folder(system_checkpoint, name):
    return system_checkpoint(name, MAKERS[name])


@pytest.fixture
def settings(name):
    return {**SETTINGS, **({"use_resolution_binning": False} if name == "hunyuan-dit" else {})}


@pytest.mark.parametrize(("target", "precision"), [("onnxruntime", "fp16"), ("openvino", "bf16")])
def test_half_precision_stays_close(exported, folder, settings, target, precision):
    check_half_precision(partial(exported, folder), settings, target, precision)


def test_int8_is_calibrated(exported, folder, settings):
    bundle = calibrate_int8(partial(exported, folder), 15, height=32, width=32)
    check_int8(*(load(bundle, precision=one)("a cat", **settings).images for one in ("fp32", "int8")), 15)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_weights_of_few_bits_stay_close(exported, folder, settings, target):
    request = QuantizationRequest(
        budget=Budget(min_psnr=15), prompts=("cat",), held_out=("apple",), steps=4, height=32, width=32
    )
    words = ("int8-weights", "int4-weights")
    bundle = exported(folder, target=target, precision=f"fp32,{','.join(words)}", quantization=request)
    images = {
        word: load(bundle, target=target, precision=word)("a cat", **settings).images for word in ("fp32", *words)
    }
    for word in words:
        check_int8(images["fp32"], images[word], 15)


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder):
    check_core_ml(exported(folder, target="onnxruntime,coreml", buckets=(SIZE,)))


def test_tensorrt_for_rtx_builds_every_network(exported, folder, name):
    assert check_tensorrt_rtx(lambda **options: exported(folder, buckets=(SIZE,), **options)) == PARTS[name]


def test_verify_passes_every_check(exported, folder, name):
    for compared in check_verify(exported(folder, target="onnxruntime,openvino", buckets=(SIZE,))):
        assert compared >= PARTS[name] - {"vae_encoder"}


def test_bench_measures_both_beside_pytorch(exported, folder):
    measure_beside_pytorch(exported(folder, target="onnxruntime,openvino", buckets=(SIZE,)), SIZE)
