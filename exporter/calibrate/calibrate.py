"""Calibrates a bundle: observes its float pipeline and chooses, for each precision, what is quantized."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from diffoundry.calibration.observe import Observed, Watched, observe
from diffoundry.calibration.options import choose_options
from diffoundry.calibration.prompts import cases_of
from diffoundry.calibration.quality import Budget
from diffoundry.calibration.ranges import make_ranges, read_ranges, write_ranges
from diffoundry.calibration.search import Found, search
from diffoundry.calibration.units import Plan
from diffoundry.exporter.calibrate.candidate_graphs import NarrowFloats, QuantizedGraphs
from diffoundry.exporter.calibrate.overflow import find_overflows
from diffoundry.exporter.calibrate.reference import FloatReference
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.calibrate.trials import CandidateGraphs, ImageTrials, SensitivitySettings
from diffoundry.exporter.passes.quantizable import quantizable
from diffoundry.exporter.passes.smooth_quant import smoothable
from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.bundle.quantization import ComponentChoice, QuantizationChoice
from diffoundry.runtime.engines.protocol import Engine
from diffoundry.targets.base import PrecisionFormat, tensor_specs

__all__ = ["STATE", "calibrate", "watch"]

STATE = ".calibration"
"""Folder in the bundle that holds what is done while calibration runs; gone when it has finished."""

_DEFAULT_PSNR = {
    "int8": 30.0,
    "fp8": 30.0,
    "int8-weights": 40.0,
    "int4-weights": 30.0,
    "fp16": 35.0,
    "bf16": 28.0,
}
"""dB, where the user names no budget: from 30 on one has to look for differences; half floats as in `verify`."""

_SEARCHED = 16
"""Images that the search compares; the held-out ones come on top."""

_PROBED = 4
"""Images that are generated for every layer."""


def calibrate(
    folder: Path,
    request: QuantizationRequest,
    forms: Mapping[str, Sequence[PrecisionFormat]],
    tell: Callable[[str], None] = lambda _words: None,
) -> dict[str, QuantizationChoice]:
    """Choose what is quantized in a bundle, and write the ranges that its graphs are made with.

    A killed run is taken up by the same call: images that were observed and precisions that were chosen are kept.

    Args:
        folder: The bundle, finished or not: portable fp32 graphs, configs, scheduler and tokenizer are in it.
        request: Budget, prompts and how to generate them.
        forms: Precision to the graph forms that its targets want.
        tell: Told how far it is.

    Returns:
        Precision to its choice, for every precision of `forms`.

    Raises:
        InputError: A budget cannot be met; the message says what was reached.
        EngineError: The float pipeline gives infinities or NaN.
        MissingExtraError: ONNX Runtime is not installed.
    """
    run = _Calibration(folder, request, tell)
    try:
        choices = {precision: run.choose(precision, list(wanted)) for precision, wanted in forms.items()}
    finally:
        run.studio.close()
    shutil.rmtree(folder / STATE, ignore_errors=True)
    return choices


class _Calibration:
    """One run: the studio, and what was measured so far."""

    def __init__(self, folder: Path, request: QuantizationRequest, tell: Callable[[str], None]) -> None:
        self.studio = FloatReference(folder, request.task, request.threads)
        self._folder = folder
        self._request = request
        self._tell = tell
        self._cases = cases_of(request.prompts)
        self._held_out = cases_of(request.held_out, held_out=True)
        self._rows: dict[str, dict[str, int]] = {}

    def choose(self, precision: str, forms: Sequence[PrecisionFormat]) -> QuantizationChoice:
        """The choice for one precision, from the state on disk when it is there."""
        path = self._folder / STATE / f"{precision}.json"
        asked = to_json([self._request, list(forms)])
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["asked"] == json.loads(json.dumps(asked)):
                return from_json(QuantizationChoice, found["choice"])
        budget = self._request.budget
        if budget == Budget():
            budget = Budget(min_psnr=_DEFAULT_PSNR.get(precision))
        quantized = [form for form in forms if form.quantized]
        result = self._quantize(precision, quantized, budget) if quantized else self._narrow(precision, forms, budget)
        choice = QuantizationChoice(
            components=result.choices,
            psnr=round(result.quality.mean, 2),
            worst_psnr=round(result.quality.worst, 2),
            budget=str(budget),
            min_psnr=budget.min_psnr,
            prompts=len(self._cases),
            held_out=len(self._held_out),
        )
        write_text(path, json.dumps({"asked": asked, "choice": to_json(choice)}))
        return choice

    def _quantize(self, precision: str, forms: Sequence[PrecisionFormat], budget: Budget) -> Found:
        activations = any(form.activations is not None for form in forms)
        if (activations or any(form.weights == "int4" for form in forms)) and not self._rows:
            self._observe()
        components = self.studio.components
        maker = QuantizedGraphs(
            self.studio.graph,
            components,
            forms,
            {name: read_ranges(self._folder, name) for name in components},
            self._rows,
            by_size=not activations or budget.min_psnr is None,
        )
        float32 = self._overflows() if any(form.floats == "fp16" for form in forms) else {}
        plan = Plan(
            units=maker.units,
            base={name: ComponentChoice(observer="mse", float32=float32.get(name, ())) for name in components},
        )
        trials = self._trials(maker)
        if activations and len(self._cases) >= _PROBED:  # fewer images cannot tell them apart
            nodes = {name: _smoothable_nodes(self.studio, name) for name in components}
            plan = choose_options(plan, trials, self._cases[: _PROBED * 2], nodes, self._telling(precision))
        return self._search(precision, plan, trials, budget)

    def _narrow(self, precision: str, forms: Sequence[PrecisionFormat], budget: Budget) -> Found:
        floats = forms[0].floats
        float32 = self._overflows() if floats == "fp16" else {}
        components = self.studio.components
        maker = NarrowFloats(self.studio.graph, components, floats, float32)
        base = {
            name: ComponentChoice(float32=float32.get(name, ()), kept=dict.fromkeys(float32.get(name, ()), 0.0))
            for name in components
        }
        plan = Plan(units=maker.units, base=base, floats=True)
        return self._search(precision, plan, self._trials(maker), budget)

    def _search(self, precision: str, plan: Plan, trials: ImageTrials, budget: Budget) -> Found:
        searched = self._cases[:_SEARCHED]
        return search(precision, plan, budget, trials, searched, self._held_out, self._telling(precision))

    def _trials(self, maker: CandidateGraphs) -> ImageTrials:
        return ImageTrials(self.studio, maker, SensitivitySettings(cases=self._cases[:_PROBED]), self._tell)

    def _telling(self, precision: str) -> Callable[[str], None]:
        return lambda words: self._tell(f"{precision}: {words}")

    def _overflows(self) -> dict[str, tuple[str, ...]]:
        found = find_overflows(self.studio, self._cases[:_PROBED])
        count = sum(len(nodes) for nodes in found.values())
        self._tell(f"fp16: {count} nodes hold numbers near the end of its range and stay in fp32")
        return found

    def _observe(self) -> None:
        """Measure ranges with every task, and write them."""
        seen: set[str] = set()
        for i, task in enumerate(self.studio.tasks):
            run = task.components(self.studio.bundle)
            names = [name for name in run if name not in seen]
            watched = {name: watch(self.studio, name) for name in names}
            others = {name: self.studio.floats().engine(name) for name in run if name in seen}
            found = observe(
                self.studio.bundle,
                task,
                self._cases,
                watched,
                others=others,
                open_graph=self._open_stage,
                state=self._folder / STATE / f"observed-{i}",
                at_once=self.studio.at_once,
                tell=self._tell,
            )
            if i == 0:
                self.studio.know(found.images)
            self._take(found, watched)
            seen |= set(names)

    def _open_stage(self, graph: ir.Model, name: str) -> Engine:
        return self.studio.open(name.partition("-")[0], graph, name)

    def _take(self, found: Observed, watched: Mapping[str, Watched]) -> None:
        for name, statistics in found.statistics.items():
            graph = watched[name].graph.graph
            inputs = {
                str(site.activation_value.name) for site in quantizable(graph) if site.activation_value is not None
            }
            norms = set(smoothable(graph))
            write_ranges(self._folder, name, make_ranges(statistics, inputs=inputs, norms=norms))
            self._rows[name] = {tensor: part.rows for tensor, part in statistics.tensors.items()}


def watch(studio: FloatReference, component: str) -> Watched:
    """What has to be looked at in a component: what its nodes with weights read, and what its convolutions make."""
    graph = studio.graph(component)
    axes: dict[str, int] = {}
    for site in quantizable(graph.graph):
        convolution = site.node.op_type == "Conv"
        if site.activation_value is not None:
            axes[str(site.activation_value.name)] = 1 if convolution else -1
        if convolution:
            axes[str(site.node.outputs[0].name)] = 1
    return Watched(
        graph=graph, axes=axes, inputs=tensor_specs(graph.graph.inputs), outputs=tensor_specs(graph.graph.outputs)
    )


def _smoothable_nodes(studio: FloatReference, component: str) -> list[str]:
    return [site.name for sites in smoothable(studio.graph(component).graph).values() for site in sites]
