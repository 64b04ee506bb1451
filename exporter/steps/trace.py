"""Traces a torch module into an ONNX graph with the names, dimensions and weights of its component."""

import importlib
import inspect
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, cast

import onnx_ir as ir
import torch
import torch.onnx

from diffoundry.exporter.checkpoints.deferred_weights import deferred_weights
from diffoundry.exporter.component import Component, fixed_size
from diffoundry.exporter.steps.decomposition import without_decomposition
from diffoundry.exporter.steps.fast_tracing import fast_recording, fast_tracing
from diffoundry.exporter.steps.graph_names import name_dims, name_weights, tidy
from diffoundry.exporter.steps.stream_weights import stream_weights
from diffoundry.runtime.bundle.dims import size_of
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import DiffoundryError
from diffoundry.targets.base import USUAL_SIZES

__all__ = ["TraceError", "trace"]

_TALKATIVE = ("torch.onnx", "torch.fx")
"""Loggers of torch that tell users what they can do nothing about."""

_OPERATOR = re.compile(r"torch\.ops\.([\w.]+)")


class TraceError(DiffoundryError):
    """A module does something that no graph can hold."""


def trace(
    module: torch.nn.Module, component: Component, *, opset: int, fixed: Mapping[str, int] | None = None
) -> ir.Model:
    """Trace a module.

    The graph's inputs and outputs are the component's, by name and order. Its symbolic dimensions are free unless
    `fixed`. Each initializer that is a weight carries the weight's name in the checkpoint's module as its own name and
    as metadata `diffoundry.weight`, which also survives a pass that renames it. Large weights are read when they are
    written, one at a time. The same module gives the same graph, byte for byte.

    Args:
        module: Result of `Checkpoint.load`: fp32, for inference.
        component: Declaration of the component.
        opset: Version of ONNX's operators.
        fixed: Symbol ("batch", "height", "width", "sequence") to the only size that the graph takes.

    Raises:
        TraceError: The module cannot be traced; the message names component, operator and cause.
        InputError: A fixed size that the component cannot take.
    """
    fixed = fixed or {}
    deferred = deferred_weights(module)
    with deferred:  # a wrapper may compute with weights
        wrapped = _wrap(module, component)
    inputs = tuple(_example(spec, component, fixed) for spec in component.inputs)
    with _quiet(), fast_tracing(), torch.no_grad():
        try:
            with fast_recording():
                program = torch.export.export(wrapped, inputs, dynamic_shapes=_free_dims(wrapped, component, fixed))
            graph = _translate(program, opset)
        except Exception as error:
            raise TraceError(_sentence(component, error)) from error
    # A wrapper may trace a changed copy of the module.
    prefix = next((f"{name}." for name, child in wrapped.named_children() if type(child) is type(module)), "")
    name_dims(graph, component, fixed)
    name_weights(graph, {tensor.data_ptr(): name for name, tensor in module.state_dict().items()})
    stream_weights(graph, deferred)
    tidy(graph, component.name, prefix)
    if component.usual:
        graph.metadata_props[USUAL_SIZES] = json.dumps(component.usual, sort_keys=True)
    return graph


def _translate(program: torch.export.ExportedProgram, opset: int) -> ir.Model:
    try:
        with without_decomposition(program):
            exported = torch.onnx.export(program, opset_version=opset, optimize=False, verbose=False)
    except torch.onnx.OnnxExporterError:
        exported = torch.onnx.export(program, opset_version=opset, optimize=False, verbose=False)
    assert exported is not None
    return exported.model


def _wrap(module: torch.nn.Module, component: Component) -> torch.nn.Module:
    path, _, name = component.wrapper.partition(":")
    wrapper: type[torch.nn.Module] = getattr(importlib.import_module(path), name)
    return wrapper(module, component).eval()


def _example(spec: TensorSpec, component: Component, fixed: Mapping[str, int]) -> torch.Tensor:
    sizes = [
        fixed_size(dim, fixed) or component.example.get(str(dim)) or size_of(dim, component.example)
        for dim in spec.shape
    ]
    assert None not in sizes, f"{component.name}: no example for {spec}"
    return torch.zeros(cast("list[int]", sizes), dtype=getattr(torch, spec.dtype))


def _free_dims(wrapped: torch.nn.Module, component: Component, fixed: Mapping[str, int]) -> dict[str, Any]:
    """torch.export's description of the dimensions that stay free."""
    free = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(spec.shape) if fixed_size(dim, fixed) is None}
        for spec in component.inputs
    )
    parameters = inspect.signature(wrapped.forward).parameters
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters.values()):
        return dict.fromkeys(parameters, free)
    return dict(zip(parameters, free, strict=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's remarks about its own insides from the user; failures are raised as errors anyway."""
    levels = {logger: logger.level for logger in map(logging.getLogger, _TALKATIVE)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _sentence(component: Component, error: BaseException) -> str:
    """Component, operator and cause, out of a chain of torch's errors."""
    chain = [error]
    while (inner := chain[-1].__cause__) is not None:
        chain.append(inner)
    operator = next((found[1] for link in chain if (found := _OPERATOR.search(str(link)))), "unknown")
    cause = next((line.strip() for line in str(chain[-1]).splitlines() if line.strip()), type(chain[-1]).__name__)
    return (
        f"component {component.name!r}: cannot be traced to ONNX: operator {operator}: {cause}; "
        f"this checkpoint's architecture is not supported with the installed torch {torch.__version__}"
    )
