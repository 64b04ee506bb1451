"""Writes a portable graph: model.onnx and, for the weights, model.onnx_data beside it."""

import errno
import os
import shutil
from pathlib import Path

import onnx_ir as ir

from diffoundry.runtime.engines.available_memory import describe_bytes

__all__ = ["GRAPH_NAME", "save_graph"]

GRAPH_NAME = "model.onnx"

_SMALLEST_EXTERNAL = 1024
"""Bytes. Smaller tensors stay in the graph, where shapes and scalars can be read without the data file."""


def save_graph(graph: ir.Model, folder: Path, name: str = GRAPH_NAME) -> tuple[str, ...]:
    """Write a graph into `folder` and return the names of its files, the graph first.

    Weights are streamed from wherever they are, one at a time, into `<name>_data`, which is Optimum's name for it. The
    data file is left out when there is nothing in it. The graph appears last: where it is, its data are whole.

    Raises:
        OSError: The weights do not fit on the disk.
    """
    _check_space(graph, folder / f"{name}_data")
    data, beside = f"{name}_data", folder / f".{name}"
    ir.save(graph, beside, external_data=data, size_threshold_bytes=_SMALLEST_EXTERNAL)
    os.replace(beside, folder / name)
    return tuple(file for file in (name, data) if (folder / file).is_file())


def _check_space(graph: ir.Model, data: Path) -> None:
    """Refuse weights that do not fit before the first of them is written."""
    tensors = [value.const_value for value in graph.graph.initializers.values()]
    needed = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    free = shutil.disk_usage(data.parent).free
    if needed > free:
        words = f"its weights take {describe_bytes(needed)}, and {describe_bytes(free)} are free"
        raise OSError(errno.ENOSPC, words, str(data))
