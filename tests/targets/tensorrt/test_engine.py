"""The engine over the fakes: numbers, profiles, streams, recorded graphs, memory, and every refusal."""

import threading
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from fake_cuda import FakeCuda
from fake_trt import CudaGraphStrategy, EngineInvalidityDiagnostics, FakeTrt, as_library, write_plan

from diffoundry.runtime.engine import EngineOptions, run_checked
from diffoundry.runtime.errors import EngineError, InputError
from diffoundry.runtime.specs import EngineSpec, TensorSpec
from diffoundry.targets.tensorrt import engine as engine_module
from diffoundry.targets.tensorrt.cuda import Cuda, list_gpus
from diffoundry.targets.tensorrt.engine import TensorRTEngine
from diffoundry.targets.tensorrt.flavour import RTX, TENSORRT

WIDE = {"sample": [(1, 4, 8, 8), (2, 4, 16, 16), (4, 4, 32, 32)]}
SMALL = {"sample": [(1, 4, 8, 8), (2, 4, 8, 8), (2, 4, 8, 8)]}
SQUARE = {"sample": [(2, 4, 8, 8)] * 3}
TALL = {"sample": [(2, 4, 16, 8)] * 3}

SHAPE = ("batch", 4, "height/8", "width/8")

SPEC = EngineSpec(
    target="tensorrt",
    precision="fp32",
    files=("unet/block.plan",),
    inputs=(TensorSpec(name="sample", dtype="float32", shape=SHAPE),),
    outputs=(TensorSpec(name="out_sample", dtype="float32", shape=SHAPE),),
    options={"profiles": {"first": {}, "second": {}}},
)


class Rig:
    """A machine of fakes with one plan on it."""

    def __init__(self, graph, folder, flavour, cuda):
        self.cuda = cuda
        self.trt = FakeTrt(cuda)
        self.flavour, self._graph, self._folder = flavour, graph, folder
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def open(self, *profiles, options=None, device=0, cache=None, built_with=None, **plan):
        path = write_plan(self._folder / "block.plan", self._graph, profiles or (WIDE,), **plan)
        spec = replace(SPEC, options={**SPEC.options, **(options or {})}, built_with=built_with or {})
        wrapped = Cuda(self.cuda)
        return TensorRTEngine(
            path,
            spec,
            EngineOptions(cache=cache),
            library=as_library(self.trt, self.flavour),
            cuda=wrapped,
            gpu=list_gpus(wrapped)[device],
        )

    def expected(self, sample):
        return self._session.run(None, {"sample": sample})[0]

    def outputs(self):
        return [node.name for node in self._session.get_outputs()]

    def copies(self):
        return [call[2] for call in self.cuda.calls if call[0] == "copy"]

    def launches(self):
        return self.cuda.calls.count(("launch",))


@pytest.fixture
def rig(block_graph, tmp_path):
    def make(flavour=TENSORRT, **machine):
        return Rig(block_graph, tmp_path, flavour, FakeCuda(**machine))

    return make


def noise(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def check(rig, engine, *shape):
    sample = noise(*shape)
    got = run_checked(engine, {"sample": sample}, "unet")["out_sample"]
    np.testing.assert_array_equal(got, rig.expected(sample))


@pytest.mark.parametrize("flavour", [TENSORRT, RTX], ids=["tensorrt", "rtx"])
def test_it_gives_what_the_graph_gives_at_every_size(rig, flavour):
    machine = rig(flavour)
    with machine.open() as engine:
        for shape in [(2, 4, 16, 16), (1, 4, 8, 24), (4, 4, 32, 32), (2, 4, 16, 16), (2, 4, 16, 16)]:
            check(machine, engine, *shape)
    assert machine.cuda.live() == []


def test_components_with_several_inputs_and_outputs(portable, tmp_path):
    """Integers, an input without free sizes, two outputs: the tiny checkpoint's text encoder and UNet."""
    ids = np.random.default_rng(0).integers(0, 4000, (2, 77)).astype(np.int32)
    states = noise(2, 77, 32)
    latents = {"sample": noise(2, 4, 8, 8), "timestep": np.array([981.0], np.float32), "encoder_hidden_states": states}
    for component, feeds in (("text_encoder", {"input_ids": ids}), ("unet", latents)):
        machine = Rig(portable(component), tmp_path, TENSORRT, FakeCuda())
        expected = dict(zip(machine.outputs(), machine._session.run(None, feeds), strict=True))
        profile = {name: [array.shape] * 3 for name, array in feeds.items() if name != "timestep"}
        path = write_plan(tmp_path / f"{component}.plan", portable(component), [profile])
        wrapped = Cuda(machine.cuda)
        library = as_library(machine.trt, TENSORRT)
        gpu = list_gpus(wrapped)[0]
        with TensorRTEngine(path, None, EngineOptions(), library=library, cuda=wrapped, gpu=gpu) as engine:
            for _ in range(3):  # as it is, recorded, repeated
                got = engine.run(feeds)
                assert got.keys() == expected.keys()
                for name, array in expected.items():
                    np.testing.assert_array_equal(got[name], array)
        assert machine.launches() == 2


def test_its_tensors_have_the_names_of_the_manifest(rig):
    with rig().open() as engine:
        assert (engine.inputs, engine.outputs) == (SPEC.inputs, SPEC.outputs)


def test_without_a_manifest_entry_the_plan_itself_tells(rig):
    machine = rig()
    path = write_plan(machine._folder / "block.plan", machine._graph, [WIDE])
    wrapped = Cuda(machine.cuda)
    library = as_library(machine.trt, TENSORRT)
    with TensorRTEngine(
        path, None, EngineOptions(), library=library, cuda=wrapped, gpu=list_gpus(wrapped)[0]
    ) as engine:
        shape = ("sample.0", 4, "sample.2", "sample.3")
        assert engine.inputs == (TensorSpec(name="sample", dtype="float32", shape=shape),)
        check(machine, engine, 1, 4, 8, 8)


def test_outputs_belong_to_the_caller(rig):
    machine = rig()
    with machine.open() as engine:
        first = engine.run({"sample": noise(1, 4, 8, 8)})["out_sample"]
        kept = first.copy()
        engine.run({"sample": noise(2, 4, 8, 8)})
        engine.run({"sample": -noise(1, 4, 8, 8)})
        np.testing.assert_array_equal(first, kept)
        first[...] = 0
        check(machine, engine, 1, 4, 8, 8)


def test_one_copy_each_way_and_memory_that_only_grows(rig):
    machine = rig()
    with machine.open() as engine:
        check(machine, engine, 4, 4, 32, 32)
        size = 4 * 4 * 32 * 32 * 4
        assert machine.copies() == [size, size]
        before = set(machine.cuda.memory)
        check(machine, engine, 1, 4, 8, 8)
        assert set(machine.cuda.memory) == before
        assert machine.copies()[2:] == [4 * 8 * 8 * 4] * 2


def test_it_tells_how_many_rows_a_call_takes(rig):
    with rig().open(SMALL, WIDE) as engine:
        assert engine.rows == 4


def test_the_nearest_profile_is_taken_and_kept(rig):
    machine = rig()
    with machine.open(WIDE, SMALL) as engine:
        context = machine.trt.contexts[0]
        for shape, profile in [((2, 4, 8, 8), 1), ((2, 4, 32, 32), 0), ((1, 4, 8, 8), 1), ((2, 4, 16, 16), 0)]:
            check(machine, engine, *shape)
            assert context.active_optimization_profile == profile


def test_a_size_outside_every_profile_is_refused_with_what_there_is(rig):
    machine = rig()
    with machine.open(SQUARE, WIDE) as engine:
        with pytest.raises(
            InputError,
            match=r"got sample \(8, 4, 8, 8\), expected shapes within one of its profiles \(first: sample "
            r"\(2, 4, 8, 8\); second: sample \(1, 4, 8, 8\) to \(4, 4, 32, 32\)\); ask for another size .* or build",
        ):
            engine.run({"sample": noise(8, 4, 8, 8)})
        check(machine, engine, 2, 4, 8, 8)


def test_static_profiles_are_recorded_at_the_second_call_and_repeated(rig):
    machine = rig(TENSORRT)
    with machine.open(SQUARE, TALL) as engine:
        for _ in range(4):
            check(machine, engine, 2, 4, 8, 8)
        context = machine.trt.contexts[0]
        assert (context.executions, machine.launches()) == (2, 3)
        check(machine, engine, 2, 4, 16, 8)
        assert (context.executions, machine.launches()) == (3, 3)
        for _ in range(3):
            sample = noise(2, 4, 16, 8) + 1
            np.testing.assert_array_equal(engine.run({"sample": sample})["out_sample"], machine.expected(sample))
        assert (context.executions, machine.launches()) == (4, 6)
    assert machine.cuda.live() == []


def test_profiles_with_room_are_not_recorded(rig):
    machine = rig(TENSORRT)
    with machine.open(SQUARE, WIDE) as engine:
        for _ in range(4):
            check(machine, engine, 2, 4, 8, 8)
        assert machine.launches() == 0


def test_what_cannot_be_recorded_is_run_as_it_is(rig):
    machine = rig(TENSORRT)
    machine.cuda.refuses_recording = True
    with machine.open(SQUARE) as engine:
        for _ in range(4):
            check(machine, engine, 2, 4, 8, 8)
        assert machine.launches() == 0
    assert machine.cuda.live() == []


@pytest.mark.parametrize(("profile", "strategy"), [(SQUARE, "WHOLE_GRAPH_CAPTURE"), (WIDE, "DISABLED")])
def test_tensorrt_for_rtx_records_by_itself(rig, profile, strategy):
    machine = rig(RTX)
    with machine.open(profile) as engine:
        for _ in range(3):
            check(machine, engine, 2, 4, 8, 8)
        assert machine.trt.contexts[0].config.cuda_graph_strategy is CudaGraphStrategy[strategy]
        assert machine.launches() == 0


def test_compiled_kernels_are_kept_between_runs(rig, tmp_path):
    cache = tmp_path / "kernels"
    for runs in (1, 2):
        machine = rig(RTX)
        with machine.open(cache=cache) as engine:
            check(machine, engine, 2, 4, 8, 8)
        (file,) = cache.glob("*.kernels")
        assert file.read_bytes().count(b"kernel\n") + file.read_bytes().endswith(b"kernel") == runs
    file.write_bytes(b"of another library")
    machine = rig(RTX)
    with machine.open(cache=cache) as engine:
        check(machine, engine, 2, 4, 8, 8)
    assert file.read_bytes() == b"kernels\nkernel"


def test_threads_take_turns_on_the_gpu_that_was_asked_for(rig):
    machine = rig(gpus=((89, "first", 1 << 30), (86, "second", 1 << 30)))
    failures = []
    with machine.open(device=1) as engine:

        def work(rows):
            try:
                for _ in range(5):
                    check(machine, engine, rows, 4, 8, 8)
            except BaseException as error:  # noqa: BLE001  # also the fakes' assertions
                failures.append(error)

        threads = [threading.Thread(target=work, args=(rows,)) for rows in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert {block.where for block in machine.cuda.memory.values()} == {"host", 1}


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
