"""The memory of one run: results are found by their inputs, and end with the run."""

import weakref

import numpy as np

from diffoundry.runtime.engines.run_memory import RunMemory, current_memory, with_memory


class _Outputs(dict):
    """Results that can be watched."""

    __hash__ = object.__hash__


class _Sum:
    """Adds its inputs and counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, feeds):
        self.calls += 1
        return {b"": {"sum": sum(array.sum() for array in feeds.values())}}


def _recall(memory, graph, text, size=2, weights=None):
    feeds = {"text": np.asarray(text, np.float32), "sample": np.zeros(size)}
    return memory.recall("graph", weights, feeds, ("sample",), graph)["sum"]


def test_equal_inputs_are_computed_once():
    memory, graph = RunMemory(), _Sum()
    assert [_recall(memory, graph, [1, 2]), _recall(memory, graph, [1, 2])] == [3, 3]
    assert graph.calls == 1
    assert _recall(memory, graph, [1, 3]) == 4
    assert _recall(memory, graph, [1, 2], size=3) == 3  # another shape is another result, of the values none
    assert graph.calls == 3
    _recall(RunMemory(), graph, [1, 2])
    assert graph.calls == 4


def test_an_array_that_is_changed_later_is_not_the_one_that_was_kept():
    memory, graph = RunMemory(), _Sum()
    text = np.float32([1, 2])
    feeds = {"text": text, "sample": np.zeros(2)}
    memory.recall("graph", None, feeds, ("sample",), graph)
    text += 1
    assert memory.recall("graph", None, feeds, ("sample",), graph)["sum"] == 5


def test_timesteps_that_follow_are_computed_at_once():
    memory, calls, text = RunMemory(), [], np.float32([1, 2])

    def compute(feeds):
        following = memory.following(feeds["timestep"])
        calls.append(None if following is None else following.tolist())
        times = [*feeds["timestep"], *([] if following is None else following)]
        return {time.tobytes(): {"time": time} for time in times}

    def recall(time):
        feeds = {"timestep": np.float32([time]), "text": text}
        return memory.recall("graph", None, feeds, (), compute, "timestep")["time"]

    assert recall(9) == 9
    memory.schedule, memory.convert = np.array([900, 600, 600, 300]), lambda times: np.asarray(times, np.float32) / 100
    assert [recall(time) for time in (6, 6, 3, 3)] == [6, 6, 3, 3]
    assert recall(8) == 8  # no timestep of the schedule
    text = text + 1
    assert [recall(time) for time in (9, 6, 3)] == [9, 6, 3]
    assert calls == [None, [3], None, [6, 3]]


def test_the_oldest_results_are_dropped():
    memory, graph = RunMemory(), _Sum()
    for number in range(9):
        _recall(memory, graph, [number])
    _recall(memory, graph, [8])
    assert graph.calls == 9
    _recall(memory, graph, [0])
    assert graph.calls == 10


def test_results_of_weights_before_are_dropped():
    memory, graph = RunMemory(), _Sum()
    alive = weakref.WeakSet()

    def compute(feeds):
        outputs = _Outputs(graph(feeds)[b""])
        alive.add(outputs)
        return {b"": outputs}

    for _ in range(20):  # a callback that changes the scale of a LoRA in every step
        weights = object()
        for _ in range(2):
            assert memory.recall("graph", weights, {"text": np.float32([1, 2])}, (), compute)["sum"] == 3
        assert len(alive) == 1
    assert graph.calls == 20


def test_the_memory_is_active_within_the_steps_of_its_run_alone():
    memories = RunMemory(), RunMemory()
    runs = [with_memory(iter([current_memory] * 2), memory) for memory in memories]

    def seen(count):
        for _ in range(count):
            yield current_memory()

    runs = [with_memory(seen(2), memory) for memory in memories]
    found = []
    for _ in range(2):
        for run in runs:  # interleaved
            found.append(next(run))
            assert current_memory() is None
    assert found == [*memories, *memories]
