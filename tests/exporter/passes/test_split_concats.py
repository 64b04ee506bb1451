"""A Split of a Concat reads the parts, where it cuts between them."""

import pytest

from diffoundry.exporter.passes.split_concats import SplitConcats

TEMPLATE = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, 3] x, float[batch, 2] z) => (float[batch, {first}] y, float[batch, {second}] w)
<int64[2] sizes = {{{first}, {second}}}>
{{
    joined = Concat <axis = {axis}> (x, z)
    a, b = Split <axis = 1> (joined, sizes)
    y = Neg(a)
    w = Relu(b)
}}
"""


@pytest.mark.parametrize("axis", [1, -1])
def test_the_parts_go_on(transform, numbers, axis):
    text = TEMPLATE.format(first=3, second=2, axis=axis)
    after = transform(text, SplitConcats(), {"x": numbers(4, 3), "z": numbers(4, 2)})
    read = {node.op_type: node.inputs[0].name for node in after.graph}
    assert (read["Neg"], read["Relu"]) == ("x", "z")


def test_a_cut_through_a_part_stays(transform, ops, numbers):
    feeds = {"x": numbers(4, 3), "z": numbers(4, 2)}
    after = transform(TEMPLATE.format(first=1, second=4, axis=1), SplitConcats(), feeds, modified=False)
    assert ops(after) == ["Concat", "Split", "Neg", "Relu"]


OTHER_AXIS = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 2] x, float[2, 2] z) => (float[4, 1] y, float[4, 1] w)
{
    joined = Concat <axis = 0> (x, z)
    a, b = Split <axis = 1, num_outputs = 2> (joined)
    y = Neg(a)
    w = Relu(b)
}
"""


def test_a_cut_along_another_axis_stays(transform, ops, numbers):
    after = transform(OTHER_AXIS, SplitConcats(), {"x": numbers(2, 2), "z": numbers(2, 2)}, modified=False)
    assert ops(after) == ["Concat", "Split", "Neg", "Relu"]


OUTPUTS = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 3] x, float[2, 2] z) => (float[2, 3] y, float[2, 2] w)
<int64[2] sizes = {3, 2}>
{
    joined = Concat <axis = 1> (x, z)
    y, w = Split <axis = 1> (joined, sizes)
}
"""


def test_outputs_of_the_graph_stay(transform, ops, numbers):
    after = transform(OUTPUTS, SplitConcats(), {"x": numbers(2, 3), "z": numbers(2, 2)}, modified=False)
    assert ops(after) == ["Concat", "Split"]
