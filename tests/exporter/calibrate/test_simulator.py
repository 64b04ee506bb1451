"""Graphs that run in parts, each opened for its turn, against the same graphs as a whole."""

import gc
import weakref

import numpy as np
import onnxruntime
import pytest
from partitioned_networks import random_feeds

from diffoundry.exporter.calibrate import float_reference, simulator
from diffoundry.exporter.calibrate.candidate_graphs import QuantizedGraphs
from diffoundry.exporter.calibrate.float_reference import FloatReference
from diffoundry.exporter.calibrate.generation_tasks import PromptTask
from diffoundry.runtime.bundle.quantization import ComponentChoice, ComponentRanges
from diffoundry.targets.base import PrecisionFormat, tensor_specs

LIMIT = 40_000


@pytest.fixture
def opened(monkeypatch):
    """Sessions that were opened, and the most that existed at a time."""
    sessions, counts = weakref.WeakSet(), []

    class Counted(onnxruntime.InferenceSession):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            gc.collect()
            sessions.add(self)
            counts.append(len(sessions))

    monkeypatch.setattr(onnxruntime, "InferenceSession", Counted)
    return counts


@pytest.fixture
def in_parts(tiny_folder, monkeypatch):
    """The tiny pipeline, as a large one is run."""
    monkeypatch.setattr(float_reference, "WHOLE_BYTES", LIMIT)
    monkeypatch.setattr(simulator, "PART_BYTES", LIMIT)
    reference = FloatReference(tiny_folder, PromptTask(steps=3), threads=1)
    yield reference
    reference.close()


def run(reference, component, model):
    with reference.open(component, model, "one") as engine:
        return engine.run(random_feeds(engine.inputs))


@pytest.mark.slow_cases("fp32")
@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_parts_give_the_numbers_of_the_whole_one_after_another(reference, in_parts, opened, weights):
    form, names = PrecisionFormat(weights="int8"), reference.components
    ranges = dict.fromkeys(names, ComponentRanges(tensors={}))
    graphs = QuantizedGraphs(reference.graph, names, [form], ranges, {}, by_size=True)
    assert all(in_parts.runs_in_parts(name) for name in reference.components)
    for component in reference.components:
        nodes = tuple(unit.nodes[0] for unit in graphs.units if unit.component == component)
        choice = ComponentChoice(quantized=nodes if weights == "int8" else ())
        model = graphs.graph(component, choice, 0)
        expected = run(reference, component, model)
        opened.clear()
        found = run(in_parts, component, model)
        assert len(opened) > 2, component
        assert set(opened) == {1}
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, atol=1e-4 * np.abs(array).max())
    assert not list(reference.bundle.root.glob("*/calibrating-*"))
    assert (
        tensor_specs(reference.graph("unet").graph.inputs)
        == in_parts.open("unet", reference.graph("unet"), "specs").inputs
    )


def test_images_are_those_of_whole_networks(reference, in_parts, prompts):
    expected, found = (one.tasks[0].generate(one.floats(), prompts[:2]) for one in (reference, in_parts))
    np.testing.assert_allclose(found, expected, atol=1e-4)
