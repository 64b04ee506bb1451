"""Writes recorded operations as ONNX: operators as they are, components as the nodes of their graphs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from diffoundry.exporter.single_graph.graph_array import GraphArray, Trace
from diffoundry.exporter.single_graph.image_rows import IMAGES
from diffoundry.exporter.single_graph.operation import Operation
from diffoundry.exporter.single_graph.tables import Table, fold_steps
from diffoundry.exporter.single_graph.traced_pipeline import CallTrace

__all__ = ["assemble"]

_Inputs = tuple[int | npt.NDArray[Any] | Table, ...]


def assemble(call: CallTrace, graph_of: Callable[[str], Path], metadata: Mapping[str, str]) -> ir.Model:
    """Make the graph of a call.

    Args:
        call: The recorded call.
        graph_of: Name of a component to the file of its graph, two folders below which the new graph is saved.
        metadata: Of the model.
    """
    return _Assembly(graph_of).model(call, metadata)


class _Assembly:
    def __init__(self, graph_of: Callable[[str], Path]) -> None:
        self._graph_of = graph_of
        self._weights: dict[str, ir.Value] = {}
        self._opsets: dict[str, int] = {}
        self._names = 0

    def model(self, call: CallTrace, metadata: Mapping[str, str]) -> ir.Model:
        before: dict[int, ir.Value] = {}
        inputs = {name: _input(name, array) for name, array in call.inputs.items()}
        before |= {array.number: inputs[name] for name, array in call.inputs.items()}
        nodes = self._nodes(_plain(call.before), before)
        last, loop_nodes, noise = self._loop(call, before)
        after = {call.last.number: last}
        nodes += [*loop_nodes, *self._nodes(_plain(call.after), after)]
        image = self._node(nodes, "Identity", [after[call.image.number]], name="image")
        _describe(image, call.image)
        graph_inputs = [*inputs.values(), *noise]
        graph = ir.Graph(
            graph_inputs,
            [image],
            nodes=nodes,
            initializers=list(self._weights.values()),
            opset_imports=self._opsets,
            name="pipeline",
        )
        model = ir.Model(graph, ir_version=10, producer_name="diffoundry")
        model.metadata_props.update(metadata)
        return model

    def _loop(self, call: CallTrace, before: Mapping[int, ir.Value]) -> tuple[ir.Value, list[ir.Node], list[ir.Value]]:
        """Return the last sample, the nodes of the loop, and the input for the noise of steps where there is one."""
        first, count = call.steps[0], len(call.steps)
        nodes: list[ir.Node] = []
        body: list[ir.Node] = []
        step = ir.Value(name="step", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
        go_on = ir.Value(name="go_on", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
        carried = [_input(f"kept_{index}", one) for index, one in enumerate((*first.samples, *first.outputs))]
        samples, outputs = carried[: len(first.samples)], carried[len(first.samples) :]
        inner = {one.number: value for one, value in zip((*first.samples, *first.outputs), carried, strict=True)}
        inner |= {one.number: before[outer.number] for one, outer in zip(first.outer, call.outer, strict=True)}
        noise = self._noise(call, inner, body, step)
        folded = fold_steps([one.trace for one in call.steps])
        body += self._nodes(folded, inner, step)
        following = [inner[first.sample.number], *samples[:-1]]
        remembered = [inner[first.output.number], *outputs[:-1]] if outputs else []
        results = [self._node(body, "Identity", [one]) for one in (go_on, *following, *remembered)]
        for value, array in zip(results[1:], (*first.samples, *first.outputs), strict=True):
            _describe(value, array)
        _describe(results[0], None)
        graph = ir.Graph([step, go_on, *carried], results, nodes=body, name="step")
        zeros = [self._zeros(one, before[call.latents.number], nodes) for one in (*first.samples[1:], *first.outputs)]
        starts = [before[call.latents.number], *zeros]
        trips = [self._constant(np.array(count, np.int64)), self._constant(np.array(True))]
        loop = ir.Node(
            "",
            "Loop",
            [*trips, *starts],
            [ir.AttrGraph("body", graph)],
            outputs=[ir.Value(name=f"last_{index}") for index in range(len(carried))],
            name="denoise",
        )
        nodes.append(loop)
        return loop.outputs[0], nodes, noise

    def _zeros(self, like: GraphArray, latents: ir.Value, nodes: list[ir.Node]) -> ir.Value:
        """Return zeros, for as many images as there are latents."""
        images = self._node(nodes, "Shape", [latents], {"start": 0, "end": 1})
        sizes = self._node(nodes, "Concat", [images, self._constant(np.array(like.shape[1:], np.int64))], {"axis": 0})
        return self._node(nodes, "Expand", [self._constant(np.zeros((), np.float32)), sizes])

    def _noise(
        self, call: CallTrace, inner: dict[int, ir.Value], body: list[ir.Node], step: ir.Value
    ) -> list[ir.Value]:
        """Let the noises of a step be rows of an input of the graph; none without noises."""
        plan, total, ends = call.plan, 0, []
        for planned in plan.steps:
            total += planned.draws
            ends.append(total)
        if not total:
            return []
        array = GraphArray(Trace(), 0, (total, *call.latents.shape), np.dtype(np.float32))
        noise = _input("step_noise", array, axis=1)
        for age, one in enumerate(call.steps[0].noises):
            rows = self._table(np.array([max(end - 1 - age, 0) for end in ends], np.int64), body, step)
            inner[one.number] = self._node(body, "Gather", [noise, rows], {"axis": 0})
        return [noise]

    def _nodes(
        self,
        operations: Sequence[tuple[Operation, _Inputs]],
        values: dict[int, ir.Value],
        step: ir.Value | None = None,
    ) -> list[ir.Node]:
        """Write operations, and add what they compute to `values`."""
        nodes: list[ir.Node] = []
        for operation, inputs in operations:
            given = [self._given(one, values, nodes, step) for one in inputs]
            if operation.component:
                results = self._component(operation, given, nodes)
            else:
                results = [self._node(nodes, operation.operator, given, operation.attributes)]
            values.update(zip(operation.outputs, results, strict=True))
        return nodes

    def _given(
        self,
        one: int | npt.NDArray[Any] | Table,
        values: Mapping[int, ir.Value],
        nodes: list[ir.Node],
        step: ir.Value | None,
    ) -> ir.Value:
        if isinstance(one, int):
            return values[one]
        if isinstance(one, Table):
            assert step is not None, "only the loop has tables"
            return self._table(one.rows, nodes, step)
        return self._constant(one)

    def _table(self, rows: npt.NDArray[Any], nodes: list[ir.Node], step: ir.Value) -> ir.Value:
        return self._node(nodes, "Gather", [self._constant(rows), step], {"axis": 0})

    def _constant(self, array: npt.NDArray[Any]) -> ir.Value:
        name = self._name("constant")
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self._weights[name] = value
        return value

    def _node(
        self,
        nodes: list[ir.Node],
        operator: str,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> ir.Value:
        named = dict(attributes or {})
        if operator == "Cast":
            named["to"] = ir.DataType.from_numpy(np.dtype(named["to"])).value
        output = ir.Value(name=name or self._name(operator.lower()))
        written = [_attribute(key, value) for key, value in named.items()]
        nodes.append(ir.Node("", operator, inputs, written, outputs=[output], name=self._name(operator)))
        return output

    def _name(self, stem: str) -> str:
        self._names += 1
        return f"{stem}_{self._names}"

    def _component(self, operation: Operation, given: Sequence[ir.Value], nodes: list[ir.Node]) -> list[ir.Value]:
        """Add the nodes of a component's graph; weights are shared between its calls."""
        name = operation.component
        model = ir.load(self._graph_of(name))
        graph, prefix = model.graph, self._name(name)
        for domain, version in graph.opset_imports.items():
            self._opsets[domain] = max(version, self._opsets.get(domain, 0))
        feeds = dict(zip(operation.names, given, strict=True))
        outputs = list(graph.outputs)
        graph.outputs.clear()
        for value in list(graph.inputs):
            ir.convenience.replace_all_uses_with(value, feeds[str(value.name)])
        for value in list(graph.initializers.values()):
            self._share(value, f"{name}.{value.name}", name)
        inner = list(graph)
        graph.remove(inner)
        for node in inner:
            node.name = f"{prefix}/{node.name}"
            for output in node.outputs:
                output.name, output.shape = f"{prefix}/{output.name}", None
        nodes += inner
        return outputs

    def _share(self, value: ir.Value, name: str, folder: str) -> None:
        known = self._weights.get(name)
        if known is not None:
            ir.convenience.replace_all_uses_with(value, known)
            return
        tensor, graph = value.const_value, value.graph
        assert tensor is not None, "an initializer has values"
        assert graph is not None, "an initializer has a graph"
        if isinstance(tensor, ir.ExternalTensor):
            tensor = ir.ExternalTensor(
                f"{folder}/{tensor.location}",
                tensor.offset,
                tensor.length,
                tensor.dtype,
                shape=tensor.shape,
                name=name,
                base_dir=Path(tensor.base_dir).parent,
            )
        graph.initializers.pop(str(value.name))
        value.name, value.const_value = name, tensor
        self._weights[name] = value


def _plain(trace: Trace) -> list[tuple[Operation, _Inputs]]:
    return [(one, tuple(one.inputs)) for one in trace.operations]


def _input(name: str, array: GraphArray, axis: int = 0) -> ir.Value:
    value = ir.Value(name=name)
    _describe(value, array, axis)
    return value


def _describe(value: ir.Value, array: GraphArray | None, axis: int = 0) -> None:
    """Set type and shape; those of a condition without an array. The number of images is that of an axis, or unused."""
    dtype = ir.DataType.BOOL if array is None else ir.DataType.from_numpy(array.dtype)
    sizes: list[int | str] = [] if array is None else list(array.shape)
    if len(sizes) > 1 and sizes[axis] == IMAGES:
        sizes[axis] = "batch"
    value.type, value.shape = ir.TensorType(dtype), ir.Shape(sizes)


def _attribute(name: str, value: Any) -> ir.Attr:
    return ir.AttrInt64s(name, value) if isinstance(value, list) else ir.AttrInt64(name, value)
