"""The real thing: plans are loaded and run on an NVIDIA GPU, against ONNX Runtime. Skipped where there is none."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.runtime.engines.protocol import AdapterWeights, EngineOptions, run_checked
from diffoundry.targets.tensorrt.cuda import find_cuda, list_gpus
from diffoundry.targets.tensorrt.sdk import SDKS

pytestmark = pytest.mark.gpu

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Of outputs of order 1: three decimal digits of half precision, summed over a handful of layers."""


@pytest.fixture(params=SDKS)
def plugin(request):
    sdk = SDKS[request.param]
    if not sdk.installed:
        pytest.skip(f"{sdk.product} is not installed")
    if not any(sdk.runs_on(gpu.capability) for gpu in list_gpus(find_cuda())):
        pytest.skip(f"no NVIDIA GPU that {sdk.product} runs on; cuda-python finds them")
    return find_plugin(sdk.name)


def lowered(plugin, work, **options):
    """The spec of a plan for the GPU that is here, and its file."""
    if plugin.name == "tensorrt-rtx":
        gpu = list_gpus(find_cuda())[0]
        options["compute_capabilities"] = (f"sm{gpu.capability}",)
    spec = plugin.make_target(options).lower(work)
    assert spec.pending is None
    return spec, work.bundle / spec.files[0]


def expected(graph, sample):
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    return session.run(None, {"sample": sample})[0]


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("buckets", [((64, 64), (64, 128)), ()], ids=["static", "dynamic"])
def test_a_plan_gives_what_the_graph_gives(plugin, block_work, block_graph, tmp_path, precision, buckets):
    profiles = {} if buckets else {"all": {"height": [64, 64, 128], "width": [64, 64, 128]}}
    spec, path = lowered(plugin, block_work(precision, buckets=buckets), profiles=profiles)
    options = EngineOptions(device="cuda", cache_dir=tmp_path / "kernels")
    with plugin.load("engine")(path, spec, options) as engine:
        for shape in [(2, 4, 8, 8), (1, 4, 8, 8), (2, 4, 8, 16), (2, 4, 8, 16), (2, 4, 8, 16), (2, 4, 8, 8)]:
            sample = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
            got = run_checked(engine, {"sample": sample}, "unet")["out_sample"]
            np.testing.assert_allclose(got, expected(block_graph, sample), rtol=0, atol=TOLERANCE[precision])


@pytest.mark.parametrize("options", [{"weight_streaming": 0}, {"refit": True}, {"strip_plan": True}], ids=str)
def test_options_that_only_a_gpu_honours(plugin, block_work, block_graph, options):
    spec, path = lowered(plugin, block_work("fp16"), **options)
    sample = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    with plugin.load("engine")(path, spec, EngineOptions(device="cuda")) as engine:
        got = run_checked(engine, {"sample": sample}, "unet")["out_sample"]
    np.testing.assert_allclose(got, expected(block_graph, sample), rtol=0, atol=TOLERANCE["fp16"])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_weights_are_changed_and_changed_back(plugin, block_work, block_graph, tmp_path, precision):
    """As a LoRA does: against the graph with W + B A in ONNX Runtime, and bit for bit where it began."""
    work = block_work(precision)
    model = ir.load(work.graph)
    for node in model.graph:  # of the block's names, for the exporter names modules
        if node.op_type in ("MatMul", "Conv") and node.inputs[1].is_initializer():
            node.metadata_props["diffoundry.module"] = node.inputs[1].name
    ir.save(model, work.graph)
    spec, path = lowered(plugin, work, refit=True)
    sample = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    changed = ir.load(block_graph)
    adapters = {}
    for layer, (out, into, *sides) in spec.adapters.layers.items():
        random = np.random.default_rng(len(adapters))
        down = random.standard_normal((2, into, *sides)).astype(np.float32) / 10
        up = random.standard_normal((out, 2, *(1 for _ in sides))).astype(np.float32) / 10
        value = changed.graph.initializers[next(n for n in changed.graph.initializers if layer.startswith(n))]
        change = np.tensordot(up.reshape(out, 2), down, 1)
        value.const_value = ir.tensor(value.const_value.numpy() + (change if sides else change.T), name=value.name)
        adapters |= {f"{layer}.lora_A": down if sides else down.T, f"{layer}.lora_B": up if sides else up.T}
    ir.save(changed, tmp_path / "changed.onnx")
    with plugin.load("engine")(path, spec, EngineOptions(device="cuda")) as engine:
        before = run_checked(engine, {"sample": sample}, "unet")["out_sample"]
        engine.set_adapters(AdapterWeights(graph=work.bundle / spec.adapters.files[0], arrays=adapters))
        got = run_checked(engine, {"sample": sample}, "unet")["out_sample"]
        engine.set_adapters(None)
        after = run_checked(engine, {"sample": sample}, "unet")["out_sample"]
    want = expected(tmp_path / "changed.onnx", sample)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE[precision] * max(1, np.abs(want).max()))
    assert np.abs(want - expected(block_graph, sample)).max() > 0.1
    np.testing.assert_array_equal(after, before)


def test_the_gpu_computes_in_something(plugin):
    assert plugin.load("devices")()
    assert "fp16" in plugin.load("precisions")("cuda")
