"""unCLIP on other targets: calibrated int8, Core ML by the interpreter, TensorRT for RTX by its builder."""

import pytest
from PIL import Image
from system_targets import check_core_ml, check_int8, check_tensorrt_rtx
from unclip_checkpoints import UNCLIP_CHECKPOINTS

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(params=UNCLIP_CHECKPOINTS)
def name(request):
    return request.param


@pytest.fixture
def folder(system_checkpoint, name):
    return system_checkpoint(name, UNCLIP_CHECKPOINTS[name])


def size(name):
    return (64, 64) if name.startswith("Stable") else (21, 21)


def arguments(pipeline):
    """Of a call in 4 steps, 3 of Karlo's stages."""
    image = Image.new("RGB", (32, 32), (200, 90, 10))
    needed = {"prompt": "a cat", "image": image}
    text = "image" not in pipeline.argument_names
    given = {"prompt": needed["prompt"]} if text else {"image": needed["image"]}
    return {"seed": 0, "output_type": "np", **pipeline.setting_arguments(4, 3.0), **given}


def test_int8_is_calibrated(exported, folder, name):
    """Few training steps amplify the rounding of the first, so the budget is wide."""
    request = QuantizationRequest(budget=Budget(min_psnr=12), prompts=("cat",), held_out=("apple",), steps=4)
    bundle = exported(folder, precision="fp32,int8", quantization=request)
    chosen = Bundle(bundle).manifest.recipe.quantization["int8"]
    assert chosen.psnr >= 12
    assert any(component.quantized for component in chosen.components.values())
    pipelines = [load(bundle, precision=precision) for precision in ("fp32", "int8")]
    expected, given = (pipeline(**arguments(pipeline)).images for pipeline in pipelines)
    check_int8(expected, given, 12)


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder, name):
    bundle = exported(folder, target="onnxruntime,coreml", buckets=(size(name),))
    check_core_ml(bundle)


def test_tensorrt_for_rtx_builds_every_network(exported, folder, name):
    check_tensorrt_rtx(lambda **options: exported(folder, buckets=(size(name),), **options))
