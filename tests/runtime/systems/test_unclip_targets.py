"""unCLIP on other targets: calibrated int8, Core ML by the interpreter, TensorRT for RTX by its builder."""

from functools import partial

import pytest
from PIL import Image
from system_targets import calibrate_int8, check_core_ml, check_int8, check_tensorrt_rtx
from unclip_checkpoints import UNCLIP_CHECKPOINTS

from diffoundry.runtime import load

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
    bundle = calibrate_int8(partial(exported, folder), 12)
    pipelines = [load(bundle, precision=precision) for precision in ("fp32", "int8")]
    expected, given = (pipeline(**arguments(pipeline)).images for pipeline in pipelines)
    check_int8(expected, given, 12)


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder, name):
    bundle = exported(folder, target="onnxruntime,coreml", buckets=(size(name),))
    check_core_ml(bundle)


def test_tensorrt_for_rtx_builds_every_network(exported, folder, name):
    check_tensorrt_rtx(lambda **options: exported(folder, buckets=(size(name),), **options))
