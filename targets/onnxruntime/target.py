"""Lowers portable graphs to what ONNX Runtime's providers run fastest."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
import onnxruntime as ort

from diffoundry.runtime.errors import EngineError
from diffoundry.runtime.specs import EngineSpec
from diffoundry.targets.base import tensor_specs

__all__ = ["OnnxRuntimeTarget"]

_NEWEST_OPSET = 25
"""The newest opset that ONNX Runtime 1.31 calls released; 1.23 stops at 23."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxRuntimeTarget:
    """ONNX Runtime: a graph file with the fused operators of its own domain where they pay."""

    name: ClassVar[str] = "onnxruntime"

    def unsupported(self, graph: ir.Model) -> list[str]:
        """See `Target.unsupported`."""
        opset = graph.opset_imports.get("", 0)
        if opset > _NEWEST_OPSET:
            return [f"the graph has opset {opset}, ONNX Runtime {ort.__version__} takes up to {_NEWEST_OPSET}"]
        return []

    def lower(self, graph: Path, *, bundle: Path, precision: str) -> EngineSpec:
        """See `Target.lower`."""
        model = ir.load(graph)
        reasons = self.unsupported(model)
        if reasons:
            raise EngineError(f"target {self.name!r} cannot take {graph}: {'; '.join(reasons)}")
        files = [graph, *sorted(graph.parent.glob(f"{graph.name}_data*"))]
        return EngineSpec(
            target=self.name,
            precision=precision,
            files=tuple(file.relative_to(bundle).as_posix() for file in files),
            inputs=tensor_specs(model.graph.inputs),
            outputs=tensor_specs(model.graph.outputs),
            built_with={"onnxruntime": ort.__version__},
        )
