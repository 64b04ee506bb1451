"""Writes one graph of a whole pipeline into a bundle, over the weights that the bundle holds already."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

import diffoundry
from diffoundry.exporter.single_graph.assemble import assemble
from diffoundry.exporter.single_graph.check import call_arguments
from diffoundry.exporter.single_graph.operation import UnrecordedError
from diffoundry.exporter.single_graph.recording_session import RecordingSession
from diffoundry.exporter.single_graph.request import SINGLE_GRAPH, SingleGraphRequest
from diffoundry.exporter.single_graph.tables import check_equal
from diffoundry.exporter.single_graph.traced_pipeline import CallTrace, TracedPipeline
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import Recipe, Variant
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines import entry_of_bundle

__all__ = ["write_single_graph"]


def write_single_graph(folder: Path, request: SingleGraphRequest, recipe: Recipe, variant: Variant) -> None:
    """Write `SINGLE_GRAPH` into a bundle.

    No weight is read or copied: the graph refers to the data files of the bundle's engines.

    Args:
        folder: The bundle's folder, with its manifest.
        request: The loop.
        recipe: Sizes.
        variant: Its engines for ONNX Runtime become the graph.

    Raises:
        InputError: The pipeline computes something between its networks that is not written as ONNX.
    """
    bundle = Bundle(folder)
    session, entry = RecordingSession(bundle, precision=variant.precision), entry_of_bundle(bundle)
    pipeline = TracedPipeline(session, resolve(entry.runtime)(session))
    arguments = call_arguments(pipeline, request, recipe)
    try:
        call, other = pipeline.trace(arguments)
        check_equal(call.before, other.before)
        check_equal(call.steps[0].trace, other.steps[0].trace)
        model = assemble(call, lambda name: folder / session.spec(name).files[0], _metadata(call, recipe, variant))
    except UnrecordedError as error:
        raise InputError(
            f"--single-graph: got a checkpoint of the family {entry.name!r} that computes {error.operation}, "
            f"which is not written as ONNX; export it without --single-graph"
        ) from error
    beside = folder / f".{SINGLE_GRAPH}"
    ir.save(model, beside)
    os.replace(beside, folder / SINGLE_GRAPH)


def _metadata(call: CallTrace, recipe: Recipe, variant: Variant) -> Mapping[str, str]:
    plan = call.plan
    return {
        "diffoundry": diffoundry.__version__,
        "model": recipe.model,
        "precision": variant.precision,
        "height": str(call.size[0]),
        "width": str(call.size[1]),
        "scheduler": plan.scheduler,
        "num_inference_steps": str(len(plan.steps)),
        "timesteps": json.dumps([step.timestep for step in plan.steps]),
    }
