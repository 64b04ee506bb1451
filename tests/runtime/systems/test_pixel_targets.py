"""Systems over pixels, and DiT, on other targets: calibrated int8, Core ML by the interpreter, TensorRT for RTX."""

import numpy as np
import pytest
from coreml_interpreter.engine import InterpretedEngine
from pixel_checkpoints import CHECKPOINTS

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.protocol import EngineOptions

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
    assert 0 < np.square(images[0] - images[1]).mean() < 10 ** (-12 / 10)


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder, name):
    bundle = exported(folder, target="onnxruntime,coreml", buckets=(SIZES[name],))
    float_pipeline, opened = load(bundle, target="onnxruntime"), Bundle(bundle)
    generator = np.random.default_rng(0)
    for component in opened.components:
        spec = next(engine for engine in opened.engines(component) if engine.target == "coreml")
        feeds = {
            one.name: generator.standard_normal(one.shape).astype(one.dtype)
            if one.dtype.startswith("float") and one.name != "timestep"
            else generator.integers(1, 7, one.shape).astype(one.dtype)
            for one in spec.inputs
        }
        expected = float_pipeline.session.run(component, feeds)
        with InterpretedEngine(bundle / spec.files[0], spec, EngineOptions(device="cpu")) as engine:
            for output, array in engine.run(feeds).items():
                np.testing.assert_allclose(array, expected[output], atol=1e-4 * np.abs(expected[output]).max())


def test_tensorrt_for_rtx_builds_every_network(exported, folder, name):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    bundle = exported(folder, target="tensorrt-rtx", precision="fp16", buckets=(SIZES[name],))
    opened = Bundle(bundle)
    for component in opened.components:
        (spec,) = opened.engines(component)
        assert spec.pending is None
        assert spec.files[0].startswith(f"{component}/")
