"""Systems over pixels, and DiT, on other targets: calibrated int8, Core ML by the interpreter, TensorRT for RTX."""

import pytest
from pixel_checkpoints import CHECKPOINTS
from system_targets import check_core_ml, check_int8, check_tensorrt_rtx

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SIZES = {"consistency": (8, 8), "dit": (16, 16), "score-sde-ve": (8, 8), "karras-ve": (32, 32), "repaint": (32, 32)}
"""Checkpoint to height and width of its images."""


@pytest.fixture(params=SIZES)
def name(request):
    return request.param


@pytest.fixture
def folder(system_checkpoint, name):
    return system_checkpoint(name, CHECKPOINTS[name])


def test_int8_is_calibrated(exported, folder):
    request = QuantizationRequest(
        budget=Budget(min_psnr=12), prompts=("cat", "dog", "fox"), held_out=("apple",), steps=4, threads=1
    )
    bundle = exported(folder, precision="fp32,int8", quantization=request)
    chosen = Bundle(bundle).manifest.recipe.quantization["int8"]
    assert set(chosen.components) == set(Bundle(bundle).components)
    assert chosen.psnr >= 12
    images = []
    for precision in ("fp32", "int8"):
        pipeline = load(bundle, precision=precision)
        given = pipeline.measure_arguments(4, 4.0, *pipeline.default_size)
        images.append(pipeline(seed=0, output_type="np", **given).images)
    check_int8(images[0], images[1], 12)


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder, name):
    bundle = exported(folder, target="onnxruntime,coreml", buckets=(SIZES[name],))
    check_core_ml(bundle, (1, 7))


def test_tensorrt_for_rtx_builds_every_network(exported, folder, name):
    check_tensorrt_rtx(lambda **options: exported(folder, buckets=(SIZES[name],), **options))
