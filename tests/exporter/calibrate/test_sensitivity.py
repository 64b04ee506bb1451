"""Sensitivity by switches against graphs that were built for one node alone."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from diffoundry.calibration.quality import mean_square
from diffoundry.calibration.ranges import read_ranges
from diffoundry.exporter.calibrate.candidate_graphs import NarrowFloats, QuantizedGraphs
from diffoundry.exporter.calibrate.sensitivity import measure_alone, refine
from diffoundry.exporter.calibrate.trials import ImageTrials, SensitivitySettings
from diffoundry.runtime.bundle.quantization import ComponentChoice
from diffoundry.targets.base import PrecisionFormat

COMPONENTS = ("text_encoder", "unet", "vae_decoder")


@pytest.fixture
def weights_only(reference):
    """Trials of int4 weights, which need no ranges; some units of every component."""
    ranges = {name: read_ranges(reference.bundle.root, name) for name in COMPONENTS}
    form = PrecisionFormat(weights="int4", block=8)
    graphs = QuantizedGraphs(reference.graph, COMPONENTS, [form], ranges, {}, by_size=True)
    units = [unit for name in COMPONENTS for unit in [u for u in graphs.units if u.component == name][::9]]
    return graphs, units


def brute_force(reference, graphs, unit, prompts, steps) -> float:
    """The float pipeline with one component whose graph was built with the unit alone."""
    model = graphs.graph(unit.component, ComponentChoice(quantized=unit.nodes), 0)
    task = reference.task_for(unit.component, steps)
    with reference.open(unit.component, model, "one") as engine:
        generated = task.generate(reference.floats({unit.component: engine}), prompts)
    return float(mean_square(generated, task.generate(reference.floats(), prompts)).mean())


@pytest.mark.slow
def test_a_switch_is_the_graph_with_that_node_alone(reference, prompts, weights_only):
    graphs, units = weights_only
    trials = ImageTrials(reference, graphs, SensitivitySettings(prompts=prompts[:2]), lambda _message: None)
    messages: list[str] = []
    found = measure_alone(trials, units, prompts[:2], 2, messages.append)
    expected = [brute_force(reference, graphs, unit, prompts[:2], 2) for unit in units]
    assert list(found) == units
    assert len(units) > 10
    # The switched graph is optimised in another way: its sums may have another order.
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-2, atol=1e-11)
    assert min(found.values()) > 0
    assert messages[-1].startswith(f"measured {len(units)} of {len(units)} layers alone")


@pytest.mark.slow
def test_few_steps_rank_as_all_steps_do(reference, prompts, weights_only):
    graphs, units = weights_only
    trials = ImageTrials(reference, graphs, SensitivitySettings(prompts=prompts), lambda _message: None)
    few = measure_alone(trials, units, prompts, 2)
    whole = measure_alone(trials, units, prompts, None)
    assert spearmanr(list(few.values()), list(whole.values())).statistic > 0.9


def test_refining_measures_the_top_again_and_scales_the_others(reference, prompts, weights_only):
    graphs, units = weights_only
    trials = ImageTrials(reference, graphs, SensitivitySettings(prompts=prompts), lambda _message: None)
    few = measure_alone(trials, units, prompts, 1)
    top = sorted(units, key=lambda unit: -few[unit])[:3]
    found = refine(trials, few, top, prompts)
    whole = measure_alone(trials, top, prompts, None)
    assert {unit: found[unit] for unit in top} == whole
    scale = np.median([whole[unit] / few[unit] for unit in top])
    for unit in set(units) - set(top):
        assert found[unit] == pytest.approx(few[unit] * scale)


@pytest.mark.slow
def test_small_chunks_of_switches_give_the_same(reference, prompts, weights_only, monkeypatch):
    graphs, units = weights_only
    trials = ImageTrials(reference, graphs, SensitivitySettings(prompts=prompts[:1]), lambda _message: None)
    expected = measure_alone(trials, units, prompts[:1], 1)
    monkeypatch.setattr("diffoundry.exporter.calibrate.trials._SWITCHED_BYTES", 1)
    assert all(len(chunk) == 1 for chunk in trials.chunks(units))
    found = measure_alone(trials, units, prompts[:1], 1)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-2, atol=1e-11)


def test_groups_of_half_floats_are_the_modules_of_the_network(reference, prompts):
    graphs = NarrowFloats(reference.graph, ["vae_decoder"], "bf16", {"vae_decoder": ["decoder.conv_in/Conv"]})
    names = [unit.nodes[0].rpartition("/")[0] for unit in graphs.units]
    assert "decoder.mid_block.resnets.0.norm1" in names
    assert "decoder.conv_in" not in names  # it stays in float32 in any case
    trials = ImageTrials(reference, graphs, SensitivitySettings(prompts=prompts[:1]), lambda _message: None)
    units = graphs.units[::8]
    found = measure_alone(trials, units, prompts[:1], 1)
    assert all(0 < cost < 1e-3 for cost in found.values())
