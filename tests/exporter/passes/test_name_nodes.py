"""Nodes are named after the modules that they compute."""

import onnx_ir as ir

from diffoundry.exporter.passes.name_nodes import NameNodes
from diffoundry.exporter.steps.graph_names import MODULE_KEY

TEXT = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2] x) => (float[2] y)
{
    [first] a = Neg(x)
    [second] b = Abs(a)
    [third] c = Neg(b)
    [fourth] y = Neg(c)
}
"""


def named(modules):
    model = ir.from_onnx_text(TEXT)
    for node, module in zip(model.graph, modules, strict=True):
        if module is not None:
            node.metadata_props[MODULE_KEY] = module
    return model


def test_names_are_module_and_operator():
    model = named(["down.0", "down.0", "down.0", "up.1"])
    assert NameNodes()(model).modified
    assert [node.name for node in model.graph] == ["down.0/Neg", "down.0/Abs", "down.0/Neg_2", "up.1/Neg"]
    assert not NameNodes()(model).modified


def test_nodes_of_no_module_keep_their_name():
    model = named([None, None, None, None])
    assert not NameNodes()(model).modified
    assert [node.name for node in model.graph] == ["first", "second", "third", "fourth"]
