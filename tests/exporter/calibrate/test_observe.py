"""Observation of a running pipeline: every value of every call, in any number of parts, stopped anywhere."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from diffoundry.calibration.ranges import make_ranges
from diffoundry.calibration.statistics import SAMPLES, Statistics
from diffoundry.exporter.calibrate.calibrate import watch
from diffoundry.exporter.calibrate.engine_proxies import FixedEngines
from diffoundry.exporter.calibrate.float_reference import FloatReference
from diffoundry.exporter.calibrate.generation_tasks import PromptTask
from diffoundry.exporter.calibrate.observe import Observation, WatchedGraph, _SavedState, observe
from diffoundry.exporter.calibrate.split_graph import SplitEngine, split_graph
from diffoundry.runtime.engines.protocol import Engine
from diffoundry.targets.base import tensor_specs


def run_observation(
    reference: FloatReference, prompts, state: Path, task=None, open_graph=None, progress=lambda _message: None
) -> Observation:
    names = ("text_encoder", "unet", "vae_decoder")
    return observe(
        reference.bundle,
        task or reference.tasks[0],
        prompts,
        {name: watch(reference, name) for name in names},
        others={},
        open_graph=open_graph or (lambda graph, name: reference.open(name.partition("-")[0], graph, name)),
        state=state,
        at_once=2,
        progress=progress,
    )


def all_values(reference: FloatReference, prompts) -> dict[str, list[list[np.ndarray]]]:
    """Component to its calls to what the watched tensors held, each from one session with all of them as outputs."""
    found: dict[str, list] = {}
    engines: dict[str, Engine] = {}
    for name in ("text_encoder", "unet", "vae_decoder"):
        part = watch(reference, name)
        graph = part.graph
        made = [v for node in graph.graph for v in node.outputs if v.name in part.axes and not v.is_graph_output()]
        graph.graph.outputs.extend(made)
        engines[name] = Recorder(reference.open(name, graph, "all"), part, found.setdefault(name, []))
    for start in range(0, len(prompts), 2):
        reference.tasks[0].generate(FixedEngines(reference.bundle, engines), prompts[start : start + 2])
    return found


@dataclass
class Recorder:
    """Keeps everything, as calibration must not."""

    engine: Engine
    part: WatchedGraph
    calls: list

    def __post_init__(self) -> None:
        self.inputs, self.outputs = self.part.inputs, self.part.outputs

    def run(self, feeds):
        outputs = self.engine.run(feeds)
        everything = {**feeds, **outputs}
        self.calls.append({name: everything[name].copy() for name in self.part.axes})
        return {spec.name: outputs[spec.name] for spec in self.outputs}


def test_observation_is_brute_force_over_stored_activations(reference, prompts, tmp_path):
    observed = run_observation(reference, prompts, tmp_path / "state")
    for component, calls in all_values(reference, prompts).items():
        statistics = observed.statistics[component]
        assert statistics.tensors.keys() == calls[0].keys()
        steps = 4 if component == "unet" else 1  # PNDM runs it once more than it was asked for steps
        for name, tensor in statistics.tensors.items():
            assert len(tensor.histograms) == steps
            for step in range(steps):
                taken = [call[name].ravel() for call in calls[step::steps]]
                values = np.concatenate(taken)
                sampled = np.concatenate([array[:: -(-array.size // SAMPLES) | 1] for array in taken])
                # Other parts are other sessions, whose sums may have another order: a few ulp.
                assert tensor.low[step] == pytest.approx(values.min(), rel=1e-4, abs=1e-5)
                assert tensor.high[step] == pytest.approx(values.max(), rel=1e-4, abs=1e-5)
                histogram = tensor.histograms[step]
                expected = np.histogram(sampled.astype(np.float64), bins=histogram.edges)[0]
                assert histogram.counts.sum() == sampled.size
                assert np.abs(histogram.counts - expected).sum() <= 0.002 * sampled.size


def test_the_images_are_those_of_the_float_pipeline(reference, prompts, tmp_path):
    observed = run_observation(reference, prompts, tmp_path / "state")
    expected = reference.tasks[0].generate(reference.floats(), prompts)
    assert list(observed.images) == list(prompts)
    np.testing.assert_allclose(np.stack(list(observed.images.values())), expected, atol=1e-4)


class Killed(BaseException):
    """As Ctrl-C or the end of a machine: nothing catches it."""


def ranges_of(observed: Observation) -> dict:
    return {n: make_ranges(s, inputs=set(s.tensors), norms=set(s.tensors)) for n, s in observed.statistics.items()}


@pytest.mark.slow
def test_a_run_killed_between_or_within_batches_resumes_to_the_same_bits(reference, prompts, tmp_path):
    expected = run_observation(reference, prompts, tmp_path / "whole")

    calls = 0

    def kill_at(count: int) -> Callable:
        nonlocal calls
        calls = 0

        def open_graph(graph: ir.Model, name: str) -> Engine:
            engine = reference.open(name.partition("-")[0], graph, name)
            run = engine.run

            def counting(feeds):
                nonlocal calls
                calls += 1
                if calls == count:
                    raise Killed
                return run(feeds)

            engine.run = counting
            return engine

        return open_graph

    run_observation(reference, prompts, tmp_path / "counted", open_graph=kill_at(0))
    for count in (3, calls * 3 // 4):  # within the first batch, and within the second
        with pytest.raises(Killed):
            run_observation(reference, prompts, tmp_path / "state", open_graph=kill_at(count))
    messages: list[str] = []
    found = run_observation(reference, prompts, tmp_path / "state", progress=messages.append)
    assert len(messages) == 1  # the first batch was not generated again
    assert ranges_of(found) == ranges_of(expected)
    for prompt in prompts:
        np.testing.assert_array_equal(found.images[prompt], expected.images[prompt])


@pytest.mark.slow
def test_a_finished_observation_is_read_and_not_run_again(reference, prompts, tmp_path):
    expected = run_observation(reference, prompts, tmp_path / "state")

    def refuse(_graph, _name):
        class Never:
            inputs = outputs = ()

            def run(self, _feeds):
                raise AssertionError

            def close(self):
                pass

        return Never()

    assert ranges_of(run_observation(reference, prompts, tmp_path / "state", open_graph=refuse)) == ranges_of(expected)


def test_another_request_starts_from_the_beginning(reference, prompts, tmp_path):
    run_observation(reference, prompts[:2], tmp_path / "state")
    messages: list[str] = []
    run_observation(reference, prompts[:2], tmp_path / "state", task=PromptTask(steps=2), progress=messages.append)
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("note.json", b""),
        ("note.json", b"{"),
        ("note.json", b"{}"),
        ("note.json", b'{"fingerprint": "f"}'),
        ("2/images.npy", b""),
        ("2/unet.npz", bytes(100)),
    ],
)
def test_a_damaged_state_starts_from_the_beginning(tmp_path, name, content):
    watched = {"unet": SimpleNamespace(axes={"x": 1})}
    saved = _SavedState(tmp_path / "state", "f", watched)
    assert saved.read()[0] == 0
    saved.write(2, {"unet": Statistics({"x": 1})}, [np.zeros((2, 2), np.float32)] * 2)
    assert _SavedState(tmp_path / "state", "f", watched).read()[0] == 2
    (tmp_path / "state" / name).write_bytes(content)
    assert _SavedState(tmp_path / "state", "f", watched).read()[0] == 0


def test_progress_names_count_and_time_left(reference, prompts, tmp_path):
    messages: list[str] = []
    run_observation(reference, prompts, tmp_path / "state", progress=messages.append)
    assert [words.partition(",")[0] for words in messages] == ["observed 2 of 4 images", "observed 4 of 4 images"]
    assert all(words.endswith("s left") for words in messages)


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_parts_compute_the_same_as_the_whole_graph(reference, at_once):
    graph = reference.graph("unet")
    feeds = {
        "sample": np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32),
        "timestep": np.array([7.0], np.float32),
        "encoder_hidden_states": np.random.default_rng(1).standard_normal((2, 77, 32)).astype(np.float32),
    }
    watched = [v.name for node in graph.graph for v in node.outputs if node.op_type in ("Conv", "MatMul")]
    seen: dict[str, np.ndarray] = {}
    parts = split_graph(graph, watched, at_once=at_once)
    assert len(parts) == (1 if at_once == 1000 else -(-len(watched) // at_once))
    assert all(len(part.watched) <= at_once for part in parts)
    specs = tensor_specs(graph.graph.inputs), tensor_specs(graph.graph.outputs)
    opener = lambda part, name: reference.open("unet", part, name)  # noqa: E731
    with SplitEngine(parts, opener, seen.__setitem__, inputs=specs[0], outputs=specs[1]) as engine:
        found = engine.run(feeds)
    with reference.open("unet", graph, "whole") as whole:
        expected = whole.run(feeds)
    assert seen.keys() == set(watched)
    np.testing.assert_allclose(found["out_sample"], expected["out_sample"], rtol=1e-4, atol=1e-5)
