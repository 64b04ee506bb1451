"""Sensitivity by switches against graphs that were built for one node alone."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from diffoundry.calibration.quality import mean_square
from diffoundry.calibration.ranges import read_ranges
from diffoundry.calibration.sensitivity import measure_alone, refine
from diffoundry.exporter.calibrate.candidate_graphs import NarrowFloats, QuantizedGraphs
from diffoundry.exporter.calibrate.trials import ImageTrials, SensitivitySettings
from diffoundry.runtime.bundle.quantization import ComponentChoice
from diffoundry.targets.base import PrecisionFormat

COMPONENTS = ("text_encoder", "unet", "vae_decoder")


@pytest.fixture
def weights_only(studio):
    """Trials of int4 weights, which need no ranges; some units of every component."""
    ranges = {name: read_ranges(studio.bundle.root, name) for name in COMPONENTS}
    form = PrecisionFormat(weights="int4", block=8)
    maker = QuantizedGraphs(studio.graph, COMPONENTS, [form], ranges, {}, by_size=True)
    units = [unit for name in COMPONENTS for unit in [u for u in maker.units if u.component == name][::9]]
    return maker, units


def brute_force(studio, maker, unit, cases, steps) -> float:
    """The float pipeline with one component whose graph was built with the unit alone."""
    model = maker.graph(unit.component, ComponentChoice(quantized=unit.nodes), 0)
    task = studio.task_of(unit.component, steps)
    with studio.open(unit.component, model, "one") as engine:
        generated = task.generate(studio.floats({unit.component: engine}), cases)
    return float(mean_square(generated, task.generate(studio.floats(), cases)).mean())


def test_a_switch_is_the_graph_with_that_node_alone(studio, cases, weights_only):
    maker, units = weights_only
    trials = ImageTrials(studio, maker, SensitivitySettings(cases=cases[:2]), lambda _words: None)
    told: list[str] = []
    found = measure_alone(trials, units, cases[:2], 2, told.append)
    expected = [brute_force(studio, maker, unit, cases[:2], 2) for unit in units]
    assert list(found) == units
    assert len(units) > 10
    # The switched graph is optimised in another way: its sums may have another order.
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-2, atol=1e-11)
    assert min(found.values()) > 0
    assert told[-1].startswith(f"measured {len(units)} of {len(units)} layers alone")


def test_few_steps_rank_as_all_steps_do(studio, cases, weights_only):
    maker, units = weights_only
    trials = ImageTrials(studio, maker, SensitivitySettings(cases=cases), lambda _words: None)
    few = measure_alone(trials, units, cases, 2)
    whole = measure_alone(trials, units, cases, None)
    assert spearmanr(list(few.values()), list(whole.values())).statistic > 0.9


def test_refining_measures_the_top_again_and_scales_the_others(studio, cases, weights_only):
    maker, units = weights_only
    trials = ImageTrials(studio, maker, SensitivitySettings(cases=cases), lambda _words: None)
    few = measure_alone(trials, units, cases, 1)
    top = sorted(units, key=lambda unit: -few[unit])[:3]
    found = refine(trials, few, top, cases)
    whole = measure_alone(trials, top, cases, None)
    assert {unit: found[unit] for unit in top} == whole
    scale = np.median([whole[unit] / few[unit] for unit in top])
    for unit in set(units) - set(top):
        assert found[unit] == pytest.approx(few[unit] * scale)


def test_small_chunks_of_switches_give_the_same(studio, cases, weights_only, monkeypatch):
    maker, units = weights_only
    trials = ImageTrials(studio, maker, SensitivitySettings(cases=cases[:1]), lambda _words: None)
    expected = measure_alone(trials, units, cases[:1], 1)
    monkeypatch.setattr("diffoundry.exporter.calibrate.trials._SWITCHED_BYTES", 1)
    assert all(len(chunk) == 1 for chunk in trials.chunks(units))
    found = measure_alone(trials, units, cases[:1], 1)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-2, atol=1e-11)


def test_groups_of_half_floats_are_the_modules_of_the_network(studio, cases):
    maker = NarrowFloats(studio.graph, ["vae_decoder"], "bf16", {"vae_decoder": ["decoder.conv_in/Conv"]})
    names = [unit.nodes[0].rpartition("/")[0] for unit in maker.units]
    assert "decoder.mid_block.resnets.0.norm1" in names
    assert "decoder.conv_in" not in names  # it stays in float32 in any case
    trials = ImageTrials(studio, maker, SensitivitySettings(cases=cases[:1]), lambda _words: None)
    units = maker.units[::8]
    found = measure_alone(trials, units, cases[:1], 1)
    assert all(0 < cost < 1e-3 for cost in found.values())
