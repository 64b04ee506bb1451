"""Shap-E on other targets and precisions: calibrated int8, Core ML by the interpreter, TensorRT for RTX."""

from functools import partial

import numpy as np
import pytest
from device_precisions import requires_precision
from system_targets import calibrate_int8, check_core_ml, check_int8, check_tensorrt_rtx
from tiny_shap_e import NAMES, SIDE, make_shap_e

from diffoundry.runtime import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(params=NAMES)
def folder(request, system_checkpoint):
    return system_checkpoint(request.param, partial(make_shap_e, name=request.param))


def run(pipeline):
    """Generate as a measurement does."""
    prompt = "a cat" if pipeline.text_encoders else None
    arguments = pipeline.measure_arguments(4, 3.0, *pipeline.default_size)
    return pipeline.measured_images(pipeline(prompt, seed=0, **arguments))


def test_int8_is_calibrated(exported, folder):
    bundle = calibrate_int8(partial(exported, folder), 20)
    check_int8(*(run(load(bundle, precision=one)) for one in ("fp32", "int8")), 20)


@pytest.mark.parametrize(("target", "precision"), [("onnxruntime", "fp16"), ("openvino", "bf16"), ("openvino", "fp16")])
def test_half_precision(exported, folder, target, precision):
    fp32 = run(load(exported(folder, target="onnxruntime,openvino"), target="onnxruntime"))
    bundle = exported(folder, target=target, precision=precision)
    requires_precision(target, precision)
    half = run(load(bundle, target=target, precision=precision))
    assert 0 < np.square(fp32 - half).mean() < 1e-3


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder):
    check_core_ml(exported(folder, target="onnxruntime,coreml", buckets=((SIDE, SIDE),)), (2, 50))


def test_tensorrt_for_rtx_builds_every_network(exported, folder):
    check_tensorrt_rtx(lambda **options: exported(folder, buckets=((SIDE, SIDE),), **options))
