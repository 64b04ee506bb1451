"""VQ-Diffusion on other targets: calibrated int8, Core ML by the interpreter, TensorRT for RTX by its builder."""

import numpy as np
import pytest
from coreml_interpreter.engine import InterpretedEngine
from tiny_vq_diffusion import CODES, STEPS, make_vq_diffusion

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.verify import VerifyRequest, verify
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.protocol import EngineOptions

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
    float_pipeline, opened = load(bundle, target="onnxruntime"), Bundle(bundle)
    generator = np.random.default_rng(0)
    for component in opened.components:
        spec = next(engine for engine in opened.engines(component) if engine.target == "coreml")
        feeds = {
            one.name: generator.standard_normal(one.shape).astype(one.dtype)
            if one.dtype.startswith("float")
            else generator.integers(0, STEPS if one.name == "timestep" else CODES, one.shape).astype(one.dtype)
            for one in spec.inputs
        }
        expected = float_pipeline.session.run(component, feeds)
        with InterpretedEngine(bundle / spec.files[0], spec, EngineOptions(device="cpu")) as engine:
            for output, array in engine.run(feeds).items():
                np.testing.assert_allclose(array, expected[output], atol=1e-4 * np.abs(expected[output]).max())


def test_tensorrt_for_rtx_builds_every_network(exported, folder):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    bundle = exported(folder, target="tensorrt-rtx", precision="fp16", buckets=(SIZE,))
    opened = Bundle(bundle)
    for component in opened.components:
        (spec,) = opened.engines(component)
        assert spec.pending is None
        assert spec.files[0].startswith(f"{component}/")


def test_verify_passes_every_check(exported, folder):
    report = verify(exported(folder, target="onnxruntime,openvino"), None, VerifyRequest(steps=3))
    assert [check for check in report.all_checks if not check.passed] == []
