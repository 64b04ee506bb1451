"""Writes a portable graph: model.onnx and, for the weights, model.onnx_data beside it."""

from pathlib import Path

import onnx_ir as ir

__all__ = ["GRAPH_NAME", "save_graph"]

GRAPH_NAME = "model.onnx"

_DATA_NAME = "model.onnx_data"
"""Optimum's name for it."""

_SMALLEST_EXTERNAL = 1024
"""Bytes. Smaller tensors stay in the graph, where shapes and scalars can be read without the data file."""


def save_graph(graph: ir.Model, folder: Path) -> tuple[str, ...]:
    """Write a graph into `folder` and return the names of its files, model.onnx first.

    Weights are streamed from wherever they are, one at a time. The data file is left out when there is nothing in it.
    """
    ir.save(graph, folder / GRAPH_NAME, external_data=_DATA_NAME, size_threshold_bytes=_SMALLEST_EXTERNAL)
    return tuple(name for name in (GRAPH_NAME, _DATA_NAME) if (folder / name).is_file())
