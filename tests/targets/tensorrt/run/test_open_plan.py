"""Opening a plan over the fakes: budgets, stripped plans, other versions and GPUs, damage, and too little memory."""

from dataclasses import replace

import onnx
import pytest
from fake_cuda import FakeCuda
from fake_trt import EngineInvalidityDiagnostics
from rig import SPEC, SQUARE, check, noise

from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.errors import BundleError, EngineError
from diffoundry.targets.tensorrt.cuda import Cuda
from diffoundry.targets.tensorrt.run import engine as engine_module
from diffoundry.targets.tensorrt.sdk import RTX, TENSORRT


@pytest.mark.parametrize(("asked", "budget"), [(0.5, 500_000_000), (0, 1 << 29)])
def test_weights_are_streamed_within_a_budget(rig, asked, budget):
    machine = rig()
    with machine.open(SQUARE, options={"weight_streaming": asked}, streamable=1 << 31) as engine:
        for _ in range(3):
            check(machine, engine, 2, 4, 8, 8)
        assert machine.trt.contexts[0].engine.weight_streaming_budget_v2 == budget
        assert machine.launches() == 0


def test_a_stripped_plan_takes_its_weights_from_the_graph(rig, block_graph):
    machine = rig()
    with machine.open(options={"strip_plan": True}, stripped=True) as engine:
        check(machine, engine, 2, 4, 8, 8)


def test_a_stripped_plan_without_its_graph_is_refused(rig):
    machine = rig()
    graph = machine._graph.rename(machine._graph.with_name("moved.onnx"))
    machine._graph = graph
    with pytest.raises(EngineError, match=r"weights .*block\.onnx: TensorRT .* refused: Failed to open file"):
        machine.open(options={"strip_plan": True}, stripped=True)


def test_weights_that_the_manifest_does_not_list_are_refused(rig, monkeypatch, block_graph):
    machine = rig()
    monkeypatch.setattr("rig.SPEC", replace(SPEC, files=("unet/block.plan",)))
    with pytest.raises(BundleError, match=r"its weights, block\.onnx, are not listed in the manifest; do not trust"):
        machine.open(options={"strip_plan": True}, stripped=True)
    monkeypatch.setattr("rig.SPEC", SPEC)
    model = onnx.load(block_graph)
    onnx.save(model, block_graph, save_as_external_data=True, location="extra", size_threshold=0)
    with pytest.raises(BundleError, match="in the file 'extra', which the manifest does not list"):
        machine.open(options={"strip_plan": True}, stripped=True)


def test_a_version_compatible_plan_may_bring_its_own_code(rig):
    machine = rig()
    with pytest.raises(EngineError, match="host code not allowed"):
        machine.open(host_code=True)
    options = {"version_compatible": True}
    with machine.open(host_code=True, options=options, built_with={"tensorrt": "1.6.9.1"}) as engine:
        check(machine, engine, 1, 4, 8, 8)
    with pytest.raises(
        EngineError, match=r"built with TensorRT 2\.0\.0, got 1\.7\.1\.116, expected the same version or"
    ):
        machine.open(host_code=True, options=options, built_with={"tensorrt": "2.0.0"})


def test_another_version_is_refused_before_the_file_is_read(rig):
    with pytest.raises(
        EngineError,
        match=r"block\.plan: built with TensorRT 11\.3\.0, got 1\.7\.1\.116, expected the same version; install it, or "
        r"build it again here with 'diffoundry build DIR --target tensorrt --precision fp32 --overwrite'",
    ):
        rig().open(built_with={"tensorrt": "11.3.0"})


def test_another_gpu_is_refused(rig):
    with pytest.raises(
        EngineError, match=r"got the GPU GeForce RTX 4090 \(sm89\), expected one of sm86, sm120, which it was built for"
    ):
        rig(RTX).open(options={"compute_capabilities": ["sm86", "sm120"]})
    hopper = rig(RTX, gpus=((90, "H100", 1 << 30),))
    with pytest.raises(EngineError, match=r"got the GPU H100 \(sm90\), which TensorRT for RTX does not run on"):
        hopper.open()
    with rig(TENSORRT, gpus=((90, "H100", 1 << 30),)).open() as engine:
        assert engine.inputs == SPEC.inputs


def test_what_the_head_of_a_plan_tells_is_said(rig):
    machine = rig(RTX)
    machine.trt.invalid = EngineInvalidityDiagnostics.UNSUPPORTED_CC | EngineInvalidityDiagnostics.OLD_CUDA_DRIVER
    with pytest.raises(EngineError, match=r"it was not built for this GPU and the NVIDIA driver is too old; build it"):
        machine.open()


def test_a_broken_plan_is_refused_with_the_librarys_words(rig):
    with pytest.raises(EngineError, match=r"block\.plan: TensorRT 1\.7\.1\.116 refused: magicTagRead failed; build it"):
        rig().open(broken=True)


def test_too_little_memory_is_said(rig):
    with pytest.raises(EngineError, match=r"refused: Requested size \.\.\.; .*close what else uses the GPU"):
        rig().open(too_large=True)
    machine = rig(gpus=((89, "small", 10_000),))
    with machine.open() as engine:
        check(machine, engine, 1, 4, 8, 8)
        with pytest.raises(EngineError, match=r"cudaMalloc gave cudaErrorMemoryAllocation: out of memory; close what"):
            engine.run({"sample": noise(4, 4, 32, 32)})
        check(machine, engine, 1, 4, 8, 8)
    assert machine.cuda.live() == []


def test_devices_and_what_they_compute(monkeypatch):
    gpus = ((75, "T4", 1), (90, "H100", 1), (120, "RTX 5090", 1))
    monkeypatch.setattr(engine_module, "find_cuda", lambda: Cuda(FakeCuda(gpus)))
    assert engine_module.tensorrt_devices() == ("cuda", "cuda:1", "cuda:2")
    assert engine_module.rtx_devices() == ("cuda", "cuda:2")
    assert engine_module.tensorrt_precisions("cuda:0") == ("int8", "fp16", "int8-weights", "fp32")
    assert engine_module.rtx_precisions("cuda:0") == ("int8", "fp16", "int8-weights")
    assert set(engine_module.rtx_precisions("cuda:2")) == {
        "fp32", "fp16", "bf16", "int8", "int8-weights", "int4-weights", "fp8",
    }  # fmt: skip
    assert engine_module.rtx_precisions("cuda:7") == ()


@pytest.mark.parametrize("machine", [None, Cuda(FakeCuda(driver=False)), Cuda(FakeCuda(gpus=()))])
def test_a_machine_without_a_gpu_has_no_devices(monkeypatch, machine):
    monkeypatch.setattr(engine_module, "find_cuda", lambda: machine)
    assert engine_module.tensorrt_devices() == engine_module.rtx_devices() == ()
    assert engine_module.tensorrt_precisions("cuda") == engine_module.rtx_precisions("cuda") == ()


def test_an_unknown_device_is_refused_with_those_there_are(monkeypatch, tmp_path, rtx):
    monkeypatch.setattr(engine_module, "find_cuda", lambda: Cuda(FakeCuda(((89, "RTX 4090", 1),))))
    for device in ("cuda:3", "cpu", "cuda:x"):
        with pytest.raises(EngineError, match=rf"device: got '{device}', expected cuda:0 \(RTX 4090\); cuda-python"):
            engine_module.open_rtx(tmp_path / "x.plan", None, EngineOptions(device=device))
