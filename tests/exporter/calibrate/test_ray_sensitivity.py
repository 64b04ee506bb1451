"""Layers measured alone by the workers of a Ray cluster, against one process."""

import pickle
import shutil
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from diffoundry.calibration.quality import Budget
from diffoundry.calibration.ranges import read_ranges
from diffoundry.calibration.units import Unit
from diffoundry.exporter.calibrate import ray_sensitivity
from diffoundry.exporter.calibrate.calibrate import calibrate
from diffoundry.exporter.calibrate.candidate_graphs import QuantizedGraphs
from diffoundry.exporter.calibrate.ray_sensitivity import Opening, SensitivityWorker, measure_with_ray
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.calibrate.sensitivity import AloneMeter, measure_alone, refine
from diffoundry.exporter.calibrate.trials import ImageTrials, SensitivitySettings
from diffoundry.exporter.recipe import check_calibration
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.cli import ray_workers
from diffoundry.runtime.errors import InputError
from diffoundry.targets.base import PrecisionFormat

REQUEST = QuantizationRequest(steps=3, threads=1, ray="auto")


class _Workers:
    """Two workers of this process, which do their work in turns, the last piece first."""

    def __init__(self, _address, worker, _bundles, opening, _engines):
        self._both = worker(), worker()
        for one in self._both:
            one.prepare(pickle.loads(pickle.dumps(opening)))  # as Ray does it

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        """Leave graphs open, as workers that are killed."""

    def work(self, items, describe):
        assert describe(items[0]).startswith("it measured ")
        for number in reversed(range(len(items))):
            yield number, self._both[number % 2].work(items[number])


class _Source:
    """Opens no engines: images are numbers, and each switch changes them by its own."""

    form = 1

    def __init__(self):
        self.opened = []

    def task_for(self, component, steps):
        def generate(engine, prompts):
            change = 0.0 if engine is None else float(engine.states @ np.arange(1, len(engine.states) + 1))
            return np.full((len(prompts), 2, 2, 3), (steps or 9) * change, np.float32)

        return SimpleNamespace(generate=generate)

    def floats(self):
        return None

    @contextmanager
    def open_switched(self, component, units, form):
        self.opened.append((component, units, form))
        engine = SimpleNamespace(states=np.zeros(len(units), bool))
        yield engine, engine

    def chunks(self, units):
        return [units[:2], units[2:]]


def test_the_order_of_measurements_does_not_matter():
    """A meter opens each graph once where its units follow each other, and switches one unit at a time."""
    units = [
        Unit(component=name, nodes=(f"{name}/{index}",), saving=1.0) for name in ("unet", "vae") for index in range(3)
    ]
    source, here = _Source(), _Source()
    found = measure_alone(here, units, [None], 4)
    assert found == dict(zip(units, [16.0, 64.0, 16.0] * 2, strict=True))
    assert here.opened == [(name, tuple(units[part]), 1) for name, part in _PARTS]
    meters = AloneMeter(source, [None]), AloneMeter(source, [None])

    def measure(wanted):
        for number in reversed(range(len(wanted))):
            yield number, meters[number % 2](pickle.loads(pickle.dumps(wanted[number])))

    assert list(measure_alone(source, units, [None], 4, measure=measure).items()) == list(found.items())
    whole = refine(source, found, units[:1], [None], measure=measure)
    assert (whole[units[0]], whole[units[1]]) == (81.0, 64.0 * 81 / 16)


_PARTS = [("unet", slice(0, 2)), ("unet", slice(2, 3)), ("vae", slice(3, 5)), ("vae", slice(5, 6))]


@pytest.mark.slow
def test_workers_measure_what_one_process_does(reference, prompts, monkeypatch):
    monkeypatch.setattr(ray_sensitivity, "RayWorkers", _Workers)
    names = ("unet", "vae_decoder")
    ranges = {name: read_ranges(reference.bundle.root, name) for name in reference.components}
    make = partial(QuantizedGraphs, formats=[PrecisionFormat(weights="int8")], ranges=ranges, rows={}, by_size=True)
    graphs = make(reference.graph, reference.components)
    units = [unit for name in names for unit in [one for one in graphs.units if one.component == name][:3]]
    settings, found = SensitivitySettings(prompts=prompts[:1], steps=1, top=2), []
    for spread in (None, partial(measure_with_ray, REQUEST, reference, make)):
        trials = ImageTrials(reference, graphs, settings, lambda _message: None, spread)
        found.append(trials.unit_errors(units))
    assert list(found[0]) == list(found[1]) == units
    assert found[0] == found[1]
    assert min(found[0].values()) > 0
    left = [path.name for path in reference.bundle.root.glob("*/calibrating-*")]
    assert all("worker" not in name for name in left)


def test_a_worker_with_other_graphs_is_refused(tmp_path):
    opening = Opening(
        folder=str(tmp_path), graphs={"unet": "0" * 64}, request=REQUEST, make=QuantizedGraphs, prompts=(), images={}
    )
    with pytest.raises(
        InputError, match=r"--ray: the worker on .* got no graph .*unet/model.onnx, or another one, exp"
    ):
        SensitivityWorker().prepare(opening)


def test_a_cluster_for_nothing_is_refused():
    half = Variant(target="onnxruntime", precision="fp16")
    check_calibration([half], QuantizationRequest(ray="auto", budget=Budget(min_psnr=30)))
    check_calibration([Variant(target="onnxruntime", precision="int8")], REQUEST)
    with pytest.raises(
        InputError, match="--ray: got --precision fp16, for which no layer is measured, expected one th"
    ):
        check_calibration([half], REQUEST)
    with pytest.raises(InputError, match="--no-calibration: got --ray as well"):
        QuantizationRequest(calibrate=False, ray="auto")


def test_a_journal_forgets_the_cluster():
    assert REQUEST.local.ray is None
    assert REQUEST.local == REQUEST == QuantizationRequest(steps=3, threads=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_cluster_makes_the_choice_of_one_process(tiny_folder, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'diffoundry[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    few = {"prompts": ("red apple", "cat face"), "held_out": ("pizza",), "steps": 2, "threads": 1}
    form, found = PrecisionFormat(weights="int8", activations="uint8", outputs=True), []
    ray.init(
        address="local", num_cpus=2, object_store_memory=100 * 10**6, include_dashboard=False, logging_level="ERROR"
    )
    monkeypatch.setattr(ray_workers, "_connect", lambda *_: None)  # this process is connected
    for address in (None, "auto"):
        folder = shutil.copytree(tiny_folder, tmp_path / f"{address}.bundle")
        request = QuantizationRequest(budget=Budget(min_psnr=70), **few, ray=address)
        choice = calibrate(folder, request, {"int8": [form]})
        ranges = {path.name: path.read_bytes() for path in sorted((folder / "calibration").iterdir())}
        found.append((choice, ranges))
        assert list(folder.glob("*/calibrating-*")) == []
    assert found[0] == found[1]
    assert any(one.kept for one in found[0][0]["int8"].components.values()), "layers were measured"
