"""Calibrates a bundle: observes its float pipeline and chooses the quantized layers of each precision."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import onnx_ir as ir

from diffoundry.calibration.options import choose_options
from diffoundry.calibration.prompts import seeded_prompts
from diffoundry.calibration.quality import Budget
from diffoundry.calibration.ranges import make_ranges, read_ranges, write_ranges
from diffoundry.calibration.search import SearchResult, search
from diffoundry.calibration.units import QuantizationPlan
from diffoundry.exporter.calibrate.candidate_graphs import NarrowFloats, QuantizedGraphs
from diffoundry.exporter.calibrate.float_reference import FloatReference
from diffoundry.exporter.calibrate.memory import check_calibration_memory
from diffoundry.exporter.calibrate.observe import Observation, WatchedGraph, observe
from diffoundry.exporter.calibrate.overflow import find_overflows
from diffoundry.exporter.calibrate.ray_sensitivity import measure_with_ray
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.calibrate.trials import CandidateGraphs, ImageTrials, MakeGraphs, SensitivitySettings
from diffoundry.exporter.jobs.journal import Journal
from diffoundry.exporter.passes.quantizable import quantizable
from diffoundry.exporter.passes.smooth_quant import smoothable
from diffoundry.exporter.steps.convert_precision import every_node
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.bundle.quantization import ComponentChoice, QuantizationChoice
from diffoundry.runtime.engines.protocol import Engine
from diffoundry.targets.base import PrecisionFormat, tensor_specs

__all__ = ["STATE", "calibrate", "watch"]

STATE = ".calibration"
"""Folder in the bundle with the state of a running calibration; removed at the end."""

_DEFAULT_PSNR = {
    "int8": 30.0,
    "fp8": 30.0,
    "int8-weights": 40.0,
    "int4-weights": 30.0,
    "fp16": 35.0,
    "bf16": 28.0,
}
"""Least PSNR in dB without a budget: from 30 on differences are hard to see; half floats as in `verify`."""

_SEARCHED = 16
"""Number of images for the search; the held-out images are extra."""

_NOT_MEASURED = "none: no image was generated"
"""Budget, in words, of a choice without calibration."""

_PROBED = 4
"""Number of images generated for every layer."""


def calibrate(
    folder: Path,
    request: QuantizationRequest,
    formats: Mapping[str, Sequence[PrecisionFormat]],
    progress: Callable[[str], None] = lambda _message: None,
) -> dict[str, QuantizationChoice]:
    """Choose the quantized layers of a bundle, and write the ranges for its graphs.

    The same call resumes an interrupted run: observed images and chosen precisions are kept.

    Args:
        folder: The bundle, finished or not; it contains portable fp32 graphs, configs, scheduler and tokenizer.
        request: Budget, prompts and settings.
        formats: Precision to the graph formats that its targets want.
        progress: Called with a message about the progress.

    Returns:
        Precision to its choice, for every precision of `formats`.

    Raises:
        InputError: A budget cannot be met; the message gives the best result. Or the machine has less memory than
            generating takes.
        EngineError: The float pipeline gives infinities or NaN.
        MissingExtraError: ONNX Runtime is not installed.
    """
    run = _Calibration(folder, request, progress)
    if not request.calibrate:
        return dict.fromkeys(formats, _whole_networks(run.reference))
    check_calibration_memory(run.reference, formats)
    try:
        choices = {precision: run.choose(precision, list(wanted)) for precision, wanted in formats.items()}
    finally:
        run.reference.close()
    shutil.rmtree(folder / STATE, ignore_errors=True)
    return choices


def _whole_networks(reference: FloatReference) -> QuantizationChoice:
    """Choose every node of the networks that calibration would quantize. No engine is opened, and no weight is read."""
    components = {name: every_node(reference.graph(name).graph) for name in reference.components}
    return QuantizationChoice(components=components, budget=_NOT_MEASURED)


class _Calibration:
    """One run: the reference, and the measurements so far."""

    def __init__(self, folder: Path, request: QuantizationRequest, progress: Callable[[str], None]) -> None:
        self.reference = FloatReference(folder, request.task, request.threads)
        self._folder = folder
        self._request = request
        self._progress = progress
        self._prompts = seeded_prompts(request.prompts)
        self._held_out = seeded_prompts(request.held_out, held_out=True)
        self._rows: dict[str, dict[str, int]] = {}

    def choose(self, precision: str, formats: Sequence[PrecisionFormat]) -> QuantizationChoice:
        """Make the choice for one precision, or read it from the state on disk."""
        state, asked = (
            Journal(self._folder / STATE),
            json.loads(json.dumps(to_json([self._request.local, list(formats)]))),
        )
        found = state.recall(precision, dict)
        if found is not None and found.get("asked") == asked:
            return from_json(QuantizationChoice, found["choice"])
        budget = self._request.budget
        if budget == Budget():
            budget = Budget(min_psnr=_DEFAULT_PSNR.get(precision))
        quantized = [form for form in formats if form.quantized]
        result = self._quantize(precision, quantized, budget) if quantized else self._narrow(precision, formats, budget)
        choice = QuantizationChoice(
            components=result.choices,
            psnr=round(result.quality.mean, 2),
            worst_psnr=round(result.quality.worst, 2),
            budget=str(budget),
            min_psnr=budget.min_psnr,
            prompts=len(self._prompts),
            held_out=len(self._held_out),
        )
        state.note(precision, {"asked": asked, "choice": to_json(choice)})
        return choice

    def _quantize(self, precision: str, formats: Sequence[PrecisionFormat], budget: Budget) -> SearchResult:
        activations = any(form.activations is not None for form in formats)
        if (activations or any(form.weights == "int4" for form in formats)) and not self._rows:
            self._observe()
        components = self.reference.components
        make = partial(
            QuantizedGraphs,
            formats=formats,
            ranges={name: read_ranges(self._folder, name) for name in components},
            rows=self._rows,
            by_size=not activations or budget.min_psnr is None,
        )
        graphs = make(self.reference.graph, components)
        float32 = self._overflows() if any(form.floats == "fp16" for form in formats) else {}
        plan = QuantizationPlan(
            units=graphs.units,
            base={name: ComponentChoice(observer="mse", float32=float32.get(name, ())) for name in components},
        )
        trials = self._trials(graphs, make)
        if activations and len(self._prompts) >= _PROBED:  # fewer images cannot distinguish the options
            nodes = {name: _smoothable_nodes(self.reference, name) for name in components}
            plan = choose_options(plan, trials, self._prompts[: _PROBED * 2], nodes, self._progress_of(precision))
        return self._search(precision, plan, trials, budget)

    def _narrow(self, precision: str, formats: Sequence[PrecisionFormat], budget: Budget) -> SearchResult:
        floats = formats[0].floats
        float32 = self._overflows() if floats == "fp16" else {}
        components = self.reference.components
        make = partial(NarrowFloats, floats=floats, float32=float32)
        graphs = make(self.reference.graph, components)
        base = {
            name: ComponentChoice(float32=float32.get(name, ()), kept=dict.fromkeys(float32.get(name, ()), 0.0))
            for name in components
        }
        plan = QuantizationPlan(units=graphs.units, base=base, floats=True)
        return self._search(precision, plan, self._trials(graphs, make), budget)

    def _search(self, precision: str, plan: QuantizationPlan, trials: ImageTrials, budget: Budget) -> SearchResult:
        searched = self._prompts[:_SEARCHED]
        return search(precision, plan, budget, trials, searched, self._held_out, self._progress_of(precision))

    def _trials(self, graphs: CandidateGraphs, make: MakeGraphs) -> ImageTrials:
        spread = None if self._request.ray is None else partial(measure_with_ray, self._request, self.reference, make)
        settings = SensitivitySettings(prompts=self._prompts[:_PROBED])
        return ImageTrials(self.reference, graphs, settings, self._progress, spread)

    def _progress_of(self, precision: str) -> Callable[[str], None]:
        return lambda message: self._progress(f"{precision}: {message}")

    def _overflows(self) -> dict[str, tuple[str, ...]]:
        found = find_overflows(self.reference, self._prompts[:_PROBED])
        count = sum(len(nodes) for nodes in found.values())
        self._progress(f"fp16: {count} nodes hold numbers near the end of its range and stay in fp32")
        return found

    def _observe(self) -> None:
        """Measure ranges with every task, and write them."""
        seen: set[str] = set()
        for i, task in enumerate(self.reference.tasks):
            run = task.components(self.reference.bundle)
            names = [name for name in run if name not in seen]
            watched = {name: watch(self.reference, name) for name in names}
            others = {name: self.reference.floats().engine(name) for name in run if name in seen}
            found = observe(
                self.reference.bundle,
                task,
                self._prompts,
                watched,
                others=others,
                open_graph=self._open_part,
                state=self._folder / STATE / f"observed-{i}",
                at_once=self.reference.at_once,
                progress=self._progress,
            )
            if i == 0:
                self.reference.add_images(found.images)
            self._write_ranges(found, watched)
            seen |= set(names)

    def _open_part(self, graph: ir.Model, name: str) -> Engine:
        return self.reference.open(name.partition("-")[0], graph, name)

    def _write_ranges(self, found: Observation, watched: Mapping[str, WatchedGraph]) -> None:
        for name, statistics in found.statistics.items():
            graph = watched[name].graph.graph
            inputs = {
                str(site.activation_value.name) for site in quantizable(graph) if site.activation_value is not None
            }
            norms = set(smoothable(graph))
            write_ranges(self._folder, name, make_ranges(statistics, inputs=inputs, norms=norms))
            self._rows[name] = {tensor: part.rows for tensor, part in statistics.tensors.items()}


def watch(reference: FloatReference, component: str) -> WatchedGraph:
    """Collect a component's tensors to watch: inputs of nodes with weights, and outputs of convolutions."""
    graph = reference.graph(component)
    axes: dict[str, int] = {}
    for site in quantizable(graph.graph):
        convolution = site.node.op_type == "Conv"
        if site.activation_value is not None:
            axes[str(site.activation_value.name)] = 1 if convolution else -1
        if convolution:
            axes[str(site.node.outputs[0].name)] = 1
    return WatchedGraph(
        graph=graph, axes=axes, inputs=tensor_specs(graph.graph.inputs), outputs=tensor_specs(graph.graph.outputs)
    )


def _smoothable_nodes(reference: FloatReference, component: str) -> list[str]:
    return [site.name for sites in smoothable(reference.graph(component).graph).values() for site in sites]
