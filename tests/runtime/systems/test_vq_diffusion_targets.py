"""VQ-Diffusion on other targets: calibrated int8, Core ML by the interpreter, TensorRT for RTX by its builder."""

import pytest
from system_targets import check_core_ml, check_tensorrt_rtx
from tiny_vq_diffusion import CODES, STEPS, make_vq_diffusion

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.verify import VerifyRequest, verify
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SIZE = (8, 8)


@pytest.fixture
def folder(system_checkpoint):
    return system_checkpoint("VQDiffusionPipeline-True", make_vq_diffusion)


def test_int8_is_calibrated(exported, folder):
    """A code that rounding chooses makes another image, so the budget is wide."""
    request = QuantizationRequest(budget=Budget(min_psnr=5), prompts=("cat",), held_out=("apple",), steps=STEPS)
    bundle = exported(folder, precision="fp32,int8", quantization=request)
    chosen = Bundle(bundle).manifest.recipe.quantization["int8"]
    assert any(component.quantized for component in chosen.components.values())
    options = {"seed": 0, "num_inference_steps": STEPS, "output_type": "latent"}
    images = load(bundle, precision="int8")("a cat", **options).images
    assert images.shape == (1, 16)
    assert images.max() < CODES


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder):
    bundle = exported(folder, target="onnxruntime,coreml", buckets=(SIZE,))
    check_core_ml(bundle, (0, STEPS))


def test_tensorrt_for_rtx_builds_every_network(exported, folder):
    check_tensorrt_rtx(lambda **options: exported(folder, buckets=(SIZE,), **options))


def test_verify_passes_every_check(exported, folder):
    report = verify(exported(folder, target="onnxruntime,openvino"), None, VerifyRequest(steps=3))
    assert [check for check in report.all_checks if not check.passed] == []
