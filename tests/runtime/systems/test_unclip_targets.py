"""unCLIP on other targets: calibrated int8, Core ML by the interpreter, TensorRT for RTX by its builder."""

import numpy as np
import pytest
from coreml_interpreter.engine import InterpretedEngine
from PIL import Image
from unclip_checkpoints import UNCLIP_CHECKPOINTS

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.protocol import EngineOptions

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
    assert 0 < np.square(expected - given).mean() < 10 ** (-12 / 10)


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder, name):
    bundle = exported(folder, target="onnxruntime,coreml", buckets=(size(name),))
    float_pipeline, opened = load(bundle, target="onnxruntime"), Bundle(bundle)
    generator = np.random.default_rng(0)
    for component in opened.components:
        spec = next(engine for engine in opened.engines(component) if engine.target == "coreml")
        feeds = {
            one.name: generator.standard_normal(one.shape).astype(one.dtype)
            if one.dtype.startswith("float")
            else generator.integers(0, 50, one.shape).astype(one.dtype)
            for one in spec.inputs
        }
        if "attention_mask" in feeds:
            feeds["attention_mask"] = (feeds["attention_mask"] > 0).astype(np.float32)
            feeds["attention_mask"][:, 0] = 1
        expected = float_pipeline.session.run(component, feeds)
        with InterpretedEngine(bundle / spec.files[0], spec, EngineOptions(device="cpu")) as engine:
            for output, array in engine.run(feeds).items():
                np.testing.assert_allclose(array, expected[output], atol=1e-4 * np.abs(expected[output]).max())


def test_tensorrt_for_rtx_builds_every_network(exported, folder, name):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    bundle = exported(folder, target="tensorrt-rtx", precision="fp16", buckets=(size(name),))
    opened = Bundle(bundle)
    for component in opened.components:
        (spec,) = opened.engines(component)
        assert spec.pending is None
        assert spec.files[0].startswith(f"{component}/")
