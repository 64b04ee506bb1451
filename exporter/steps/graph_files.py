"""Writes a portable graph: model.onnx and, for the weights, model.onnx_data beside it."""

import os
from pathlib import Path

import onnx_ir as ir

__all__ = ["GRAPH_NAME", "save_graph"]

GRAPH_NAME = "model.onnx"

_SMALLEST_EXTERNAL = 1024
"""Bytes. Smaller tensors stay in the graph, where shapes and scalars can be read without the data file."""


def save_graph(graph: ir.Model, folder: Path, name: str = GRAPH_NAME) -> tuple[str, ...]:
    """Write a graph into `folder` and return the names of its files, the graph first.

    Weights are streamed from wherever they are, one at a time, into `<name>_data`, which is Optimum's name for it. The
    data file is left out when there is nothing in it. The graph appears last: where it is, its data are whole.
    """
    data, beside = f"{name}_data", folder / f".{name}"
    ir.save(graph, beside, external_data=data, size_threshold_bytes=_SMALLEST_EXTERNAL)
    os.replace(beside, folder / name)
    return tuple(file for file in (name, data) if (folder / file).is_file())
