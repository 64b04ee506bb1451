"""What every target looks like to the exporter."""

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Protocol

import onnx_ir as ir

from diffoundry.runtime.specs import EngineSpec, TensorSpec

__all__ = ["Target", "tensor_specs"]

_DTYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.DOUBLE: "float64",
    ir.DataType.INT32: "int32",
    ir.DataType.INT64: "int64",
    ir.DataType.BOOL: "bool",
}


class Target(Protocol):
    """Lowers portable graphs to engines. A frozen dataclass whose fields are the target's options.

    Attributes:
        name: The name of its plugin.
    """

    name: ClassVar[str]

    def unsupported(self, graph: ir.Model) -> list[str]:
        """Why this target cannot take `graph`, one sentence a reason; empty when it can. Does no work."""

    def lower(self, graph: Path, *, bundle: Path, precision: str) -> EngineSpec:
        """Write the engine of one component.

        Args:
            graph: The component's portable graph, `<bundle>/<component>/<stem>.onnx`, with its external data beside
                it. Neither is changed; the engine's files lie beside them as `<stem>.<target>.*` or in the vendor's
                own layout.
            bundle: The bundle's folder: the files of the returned spec are relative to it.
            precision: What the graph was converted to, for the spec.

        Raises:
            EngineError: The target does not take this graph; the message lists the reasons of `unsupported`.
        """


def tensor_specs(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    """The manifest's description of a graph's inputs or outputs."""
    return tuple(_tensor_spec(value) for value in values)


def _tensor_spec(value: ir.Value) -> TensorSpec:
    assert value.name is not None
    assert value.dtype is not None, f"{value.name} has no type"
    assert value.shape is not None, f"{value.name} has no shape"
    shape = tuple(size if isinstance(size, int) else str(size.value or f"dim{i}") for i, size in enumerate(value.shape))
    return TensorSpec(name=value.name, dtype=_DTYPES[value.dtype], shape=shape)
