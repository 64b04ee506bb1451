"""Files of a lowered component beside its graph."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.targets.tensorrt.base_weights import BaseWeight, RefitFile
from diffoundry.targets.tensorrt.build.job import BuildJob
from diffoundry.targets.tensorrt.build.weight_map import locate

__all__ = ["EngineFiles"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFiles:
    """Their paths.

    Attributes:
        plan: The engine.
        graph: Input of TensorRT: the portable graph as this target rewrote it, on the same external data.
        recipe: The `BuildJob`, where the plan is still to be built.
        refit: Map of weights to parameters of the PyTorch module, and their positions.
    """

    plan: Path
    graph: Path
    recipe: Path
    refit: Path

    @classmethod
    def beside(cls, graph: Path, target: str) -> "EngineFiles":
        """Named after the graph in the target's form, such as `model.fp16.onnx`."""
        stem = f"{graph.stem}.{target}"
        names = {"plan": "plan", "graph": "onnx", "recipe": "job.json", "refit": "refit.json"}
        return cls(**{part: graph.with_name(f"{stem}.{ending}") for part, ending in names.items()})

    def write_graph(self, model: ir.Model, weights: Mapping[str, BaseWeight], *, places: bool) -> None:
        """Write the rewritten graph, whose large weights stay in the file that they are in, and the map of weights.

        Args:
            model: The graph.
            weights: From `refit_map`.
            places: True if the map has the position of each weight; small ones get a file of their own.
        """
        if places:
            self._move_out(model, weights)
            weights = locate(model, weights)
        ir.save(model, self.graph)
        _write_json(self.refit, to_json(RefitFile(weights=weights)))

    def _move_out(self, model: ir.Model, weights: Mapping[str, BaseWeight]) -> None:
        """Write weights that are part of the graph's own file into one beside it."""
        values = [model.graph.initializers[name] for name in weights]
        inside = [value for value in values if not isinstance(value.const_value, ir.ExternalTensor)]
        tensors = [value.const_value for value in inside if value.const_value is not None]
        if tensors:
            moved = ir.external_data.convert_tensors_to_external(tensors, self.graph.parent, f"{self.graph.name}_data")
            for value, tensor in zip(inside, moved, strict=True):
                value.const_value = tensor

    def write_recipe(self, job: BuildJob) -> None:
        """Write a job whose paths are names in this folder."""
        _write_json(self.recipe, to_json(job))

    def keep(self, model: ir.Model, *, pending: bool, graph: bool) -> tuple[Path, ...]:
        """Return the files that belong to the engine, the first one first, and remove the others.

        Args:
            model: The rewritten graph.
            pending: True if the plan is still to be built, from recipe and graph.
            graph: True if the plan needs the graph for its weights.
        """
        first = self.recipe if pending else self.plan
        kept = [first, self.refit]
        if pending or graph:
            kept += [self.graph, *self.data(model)]
        for path in (self.recipe, self.graph, self.plan):
            if path not in kept:
                path.unlink(missing_ok=True)
        return tuple(kept)

    def data(self, model: ir.Model) -> tuple[Path, ...]:
        """The files with the weights of the rewritten graph."""
        tensors = (value.const_value for value in model.graph.initializers.values())
        names = {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
        return tuple(self.graph.with_name(name) for name in sorted(names))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
