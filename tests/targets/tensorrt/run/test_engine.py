"""The engine over the fakes: numbers, profiles, streams, recorded graphs, memory, threads."""

import threading

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_trt import CudaGraphStrategy, as_library, write_plan
from rig import SMALL, SPEC, SQUARE, TALL, WIDE, Rig, check, noise

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.errors import InputError
from diffoundry.targets.tensorrt.cuda import Cuda, list_gpus
from diffoundry.targets.tensorrt.run.engine import TensorRTEngine
from diffoundry.targets.tensorrt.sdk import RTX, TENSORRT


@pytest.mark.parametrize("sdk", [TENSORRT, RTX], ids=["tensorrt", "rtx"])
def test_it_gives_what_the_graph_gives_at_every_size(rig, sdk):
    machine = rig(sdk)
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
