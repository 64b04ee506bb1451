"""Upscalers on other targets: calibrated int8, Core ML by the interpreter, TensorRT for RTX by its builder."""

from functools import partial

import pytest
from system_targets import check_core_ml, check_int8, check_tensorrt_rtx
from upscaler_checkpoint import make_latent_upscaler, make_upscaler

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SIZES = {"upscaler": (32, 32), "latent-upscaler": (32, 32)}
"""Name of the checkpoint to height and width of its images."""

PSNR = 15


@pytest.fixture(params=SIZES)
def name(request):
    return request.param


@pytest.fixture
def folder(system_checkpoint, name):
    return system_checkpoint(name, {"upscaler": make_upscaler, "latent-upscaler": make_latent_upscaler}[name])


def test_int8_is_calibrated(exported, folder):
    request = QuantizationRequest(budget=Budget(min_psnr=PSNR), prompts=("cat", "dog"), held_out=("apple",), steps=4)
    bundle = exported(folder, precision="fp32,int8", quantization=request)
    choice = Bundle(bundle).manifest.recipe.quantization["int8"]
    assert choice.psnr >= PSNR
    assert {"text_encoder", "unet", "vae_decoder"} <= {name for name, one in choice.components.items() if one.quantized}
    images = []
    for precision in ("fp32", "int8"):
        pipe = load(bundle, precision=precision)
        arguments = pipe.measure_arguments(4, 3.0, *pipe.default_size, seed=7)
        images.append(pipe("a cat", seed=0, **{"output_type": "np", **arguments}).images)
    check_int8(*images, PSNR)


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder, name):
    check_core_ml(exported(folder, target="onnxruntime,coreml", buckets=(SIZES[name],)))


def test_tensorrt_rtx_takes_every_component(exported, folder):
    assert {"text_encoder", "unet", "vae_decoder"} <= check_tensorrt_rtx(partial(exported, folder))
