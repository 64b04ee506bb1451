"""Stores equal small constants once."""

import logging
from collections.abc import Sequence

import onnx_ir as ir

from diffoundry.exporter.steps.graph_names import WEIGHT_KEY

__all__ = ["DeduplicateConstants"]

logger = logging.getLogger(__name__)

_LARGEST = 1024
"""Bytes. Larger constants are few, and comparing them would read them."""


class DeduplicateConstants(ir.passes.InPlacePass):
    """Makes every node that reads one of several equal constants read the first of them.

    Given:
        %a = Unsqueeze(%x, %c1)            # %c1 = [1]
        %b = Unsqueeze(%y, %c2)            # %c2 = [1]
    Result:
        %a = Unsqueeze(%x, %c1)
        %b = Unsqueeze(%y, %c1)

    Weights are left alone even where they are equal, such as biases of zero in a fresh model: each keeps its name,
    under which it can be replaced later.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merge equal constants of the main graph."""
        graph = model.graph
        first: dict[tuple[ir.DataType, Sequence[int], bytes], ir.Value] = {}
        modified = False
        for name, value in tuple(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or tensor.nbytes > _LARGEST or WEIGHT_KEY in value.metadata_props:
                continue
            if value.is_graph_input() or value.is_graph_output():
                logger.debug("%s is part of the graph's interface", name)
                continue
            kept = first.setdefault((tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes()), value)
            if kept is not value:
                ir.convenience.replace_all_uses_with(value, kept)
                del graph.initializers[name]
                modified = True
        return ir.passes.PassResult(model, modified)
