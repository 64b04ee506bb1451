"""The small questions and edits on graphs that passes and targets share."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from diffoundry.targets import graph_edit
from diffoundry.targets.base import tensor_specs

TEXT = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, 4] x, int32[2] z) => (float[batch, 4] y)
<float two = {2}, float[3] three = {1, 2, 3}>
{
    [first] a = Mul(x, two)
    [second] b = Neg(a)
    [third] y = Add(b, a)
}
"""


def graph():
    model = ir.from_onnx_text(TEXT)
    ShapeInferencePass()(model)
    return model.graph


def value(graph, name):
    found = {v.name: v for v in (*graph.inputs, *graph.initializers.values())}
    return (found | {v.name: v for node in graph for v in node.outputs})[name]


def test_constants():
    g = graph()
    assert graph_edit.scalar(value(g, "two")) == 2
    assert graph_edit.constant(value(g, "three")).tolist() == [1, 2, 3]
    assert graph_edit.constant(value(g, "three"), limit=2) is None
    assert graph_edit.scalar(value(g, "three")) is None
    assert graph_edit.constant(value(g, "x")) is None
    assert graph_edit.constant(value(g, "a")) is None
    assert graph_edit.constant(None) is None


def test_producers_and_users():
    g = graph()
    assert graph_edit.producer(value(g, "a"), "Div", "Mul").name == "first"
    assert graph_edit.producer(value(g, "a"), "Neg") is None
    assert graph_edit.producer(value(g, "a"), "Mul", domain="com.microsoft") is None
    assert graph_edit.producer(value(g, "x"), "Mul") is None
    assert graph_edit.producer(None, "Mul") is None
    assert graph_edit.sole_user(value(g, "b")).name == "third"
    assert graph_edit.sole_user(value(g, "a")) is None
    assert graph_edit.sole_user(value(g, "y")) is None


def test_sizes():
    g = graph()
    assert graph_edit.static(value(g, "x"), 1) == 4
    assert graph_edit.static(value(g, "x"), -1) == 4
    assert graph_edit.static(value(g, "x"), 0) is None
    assert graph_edit.static(value(g, "x"), 2) is None
    assert graph_edit.static(None, 0) is None


def test_a_replacement_takes_name_type_and_place_and_removes_what_only_led_there():
    g = graph()
    old = value(g, "b")
    old.producer().metadata_props["key"] = "kept"
    new = ir.node("Abs", [value(g, "x")])
    graph_edit.replace(old, new.outputs[0], [new])
    assert [node.op_type for node in g] == ["Mul", "Abs", "Add"]
    assert value(g, "b") is new.outputs[0]
    assert (new.name, new.metadata_props["key"]) == ("second/Abs_1", "kept")
    assert new.outputs[0].dtype == ir.DataType.FLOAT
    graph_edit.replace(value(g, "y"), (last := ir.node("Neg", [value(g, "x")])).outputs[0], [last])
    assert [node.op_type for node in g] == ["Neg"]
    assert g.outputs[0].name == "y"


def test_equal_initializers_are_made_once():
    g = graph()
    first = graph_edit.new_initializer(g, "ones_2", np.ones(2, np.float32))
    assert graph_edit.new_initializer(g, "ones_2", np.ones(2, np.float32)) is first
    assert (first.dtype, first.shape.numpy()) == (ir.DataType.FLOAT, (2,))


def test_specs_of_inputs():
    specs = tensor_specs(graph().inputs)
    assert [(s.name, s.dtype, s.shape) for s in specs] == [("x", "float32", ("batch", 4)), ("z", "int32", (2,))]
