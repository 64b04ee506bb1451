"""Latent diffusion on other targets: calibrated int8, Core ML by the interpreter, TensorRT for RTX by its builder."""

import numpy as np
import onnxruntime
import pytest
from coreml_interpreter.engine import InterpretedEngine
from ldm_checkpoints import LDM_CHECKPOINTS, make_vq_model
from PIL import Image
from system_targets import check_core_ml, check_int8, check_tensorrt_rtx

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.components.defaults import complete_config
from diffoundry.exporter.components.vae import vae_decoder, vae_encoder
from diffoundry.exporter.passes import OPSET, optimize
from diffoundry.exporter.steps.graph_files import save_graph
from diffoundry.exporter.steps.graph_names import name_outputs
from diffoundry.exporter.steps.trace import trace
from diffoundry.exporter.verify import VerifyRequest, verify
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.targets.base import Lowering
from diffoundry.targets.coreml.build.target import CoreMlTarget
from diffoundry.targets.tensorrt.build.target import RTXTarget

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SIZES = {"LDMPipeline": (24, 24), "LDMSuperResolutionPipeline": (128, 128), "LDMTextToImagePipeline": (32, 48)}
"""Class to height and width of its images."""


@pytest.fixture(params=LDM_CHECKPOINTS)
def name(request):
    return request.param


@pytest.fixture
def folder(system_checkpoint, name):
    return system_checkpoint(name, LDM_CHECKPOINTS[name])


def arguments(name):
    own = {
        "LDMSuperResolutionPipeline": {"image": Image.new("RGB", (32, 32), (200, 90, 10))},
        "LDMTextToImagePipeline": {"prompt": "a cat", "guidance_scale": 3.0},
    }
    return {"seed": 0, "num_inference_steps": 4, "output_type": "np", **own.get(name, {})}


def test_int8_is_calibrated(exported, folder, name):
    """A code that rounding chooses makes another image, so the budget is wide: see the codes compared elsewhere."""
    request = QuantizationRequest(budget=Budget(min_psnr=12), prompts=("cat",), held_out=("apple",), steps=4)
    bundle = exported(folder, precision="fp32,int8", quantization=request)
    chosen = Bundle(bundle).manifest.recipe.quantization["int8"]
    assert set(chosen.components) >= {"unet", "vae_decoder"}
    assert chosen.psnr >= 12
    expected, given = (load(bundle, precision=one)(**arguments(name)).images for one in ("fp32", "int8"))
    check_int8(expected, given, 12)


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder, name):
    bundle = exported(folder, target="onnxruntime,coreml", buckets=(SIZES[name],))
    check_core_ml(bundle)


def test_tensorrt_for_rtx_builds_every_network(exported, folder, name):
    check_tensorrt_rtx(lambda **options: exported(folder, buckets=(SIZES[name],), **options))


def test_verify_passes_every_check(exported, folder, name):
    report = verify(exported(folder, target="onnxruntime,openvino"), None, VerifyRequest(steps=3))
    assert [check for check in report.all_checks if not check.passed] == []
    parts = {"unet", "vae_decoder"} | ({"bert"} if name == "LDMTextToImagePipeline" else set())
    for variant in report.variants:
        assert {result.component for result in variant.outputs} == parts
    codes = [check.measure for check in report.all_checks if check.subject == "codes"]
    assert len(codes) == (name != "LDMTextToImagePipeline")


@pytest.fixture(params=[vae_encoder, vae_decoder], ids=["vae_encoder", "vae_decoder"])
def movq(request, tmp_path):
    """A half of MoVQ as a portable graph in a folder, and its declaration."""
    module = make_vq_model("spatial")
    configs = {"movq": complete_config(dict(module.config), "VQModel")}
    component = request.param("movq", ("VQModel",)).describe(configs)
    graph = optimize(trace(module, component, opset=OPSET))
    name_outputs(graph, component, {})
    (tmp_path / component.name).mkdir()
    save_graph(graph, tmp_path / component.name)
    return component, Lowering(
        component=component.name,
        role=component.role,
        graph=tmp_path / component.name / "model.onnx",
        bundle=tmp_path,
        precision="fp32",
        buckets=((16, 24),),
    )


def test_core_ml_has_the_numbers_of_movq(movq):
    _, lowering = movq
    spec = CoreMlTarget().lower(lowering)
    generator = np.random.default_rng(0)
    feeds = {one.name: generator.standard_normal(one.shape, np.float32) for one in spec.inputs}
    (expected,) = onnxruntime.InferenceSession(str(lowering.graph)).run(None, feeds)
    with InterpretedEngine(lowering.bundle / spec.files[0], spec, EngineOptions(device="cpu")) as engine:
        (array,) = engine.run(feeds).values()
    np.testing.assert_allclose(array, expected, atol=1e-4 * np.abs(expected).max())


def test_tensorrt_for_rtx_builds_movq(movq):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    component, lowering = movq
    spec = RTXTarget().lower(lowering)
    assert spec.pending is None
    assert spec.files[0].startswith(f"{component.name}/")
