"""Lets the weights of a traced graph be read one at a time."""

from functools import partial

import onnx_ir as ir
import torch

from diffoundry.exporter.checkpoints.deferred_weights import DeferredWeights

__all__ = ["stream_weights"]

_LARGE = 64 << 10
"""Bytes. Smaller tensors are left as they are."""


def stream_weights(graph: ir.Model, deferred: DeferredWeights) -> None:
    """Replace each large initializer by one that is read when it is written, and then takes no memory again.

    Args:
        graph: Its initializers still hold torch tensors, of which some may be without memory.
        deferred: The deferred weights of the traced module.
    """
    for value in graph.graph.initializers.values():
        tensor = value.const_value
        if not isinstance(tensor, ir.Tensor) or not isinstance(tensor.raw, torch.Tensor):
            continue
        if tensor.nbytes >= _LARGE or deferred.defers(tensor.raw):
            read = partial(_read, deferred, tensor.raw, str(value.name))
            value.const_value = ir.LazyTensor(read, dtype=tensor.dtype, shape=tensor.shape, name=value.name)


def _read(deferred: DeferredWeights, weight: torch.Tensor, name: str) -> ir.TensorProtocol:
    return ir.tensor(deferred.read(weight).numpy(), name=name)
