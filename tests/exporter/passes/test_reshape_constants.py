"""Computed targets of Reshape become numbers, where one may."""

import numpy as np
import pytest

from diffoundry.exporter.passes.reshape_constants import ReshapeConstants

SPLIT_HEADS = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, tokens, 12] x) => (float[batch, tokens, 3, 4] y)
<int64[1] heads = {3}, int64[1] width = {4}>
{
    batch_size = Shape <start = 0, end = 1> (x)
    count = Shape <start = 1, end = 2> (x)
    target = Concat <axis = 0> (batch_size, count, heads, width)
    y = Reshape <allowzero = 1> (x, target)
}
"""


def target_of(model):
    node = next(node for node in model.graph if node.op_type == "Reshape")
    assert "allowzero" not in node.attributes
    return node.inputs[1].const_value.numpy().tolist()


def test_free_sizes_are_copied(transform, numbers):
    after = transform(SPLIT_HEADS, ReshapeConstants(), {"x": numbers(2, 5, 12)})
    assert target_of(after) == [0, 0, 3, 4]


MERGE = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, height, width, 12] x) => (float[batch, area, 12] y)
<int64[1] channels = {12}, int64[1] rest = {-1}>
{
    batch_size = Shape <start = 0, end = 1> (x)
    target = Concat <axis = 0> (batch_size, rest, channels)
    y = Reshape(x, target)
}
"""


def test_one_size_may_be_the_rest(transform, numbers):
    after = transform(MERGE, ReshapeConstants(), {"x": numbers(2, 5, 6, 12)})
    assert target_of(after) == [0, -1, 12]


SPREAD = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, area, 12] x, int64[2] sides) => (float[batch, height, width, 12] y)
<int64[1] channels = {12}>
{
    batch_size = Shape <start = 0, end = 1> (x)
    target = Concat <axis = 0> (batch_size, sides, channels)
    y = Reshape(x, target)
}
"""


def test_two_unknown_sizes_stay_computed(transform, ops, numbers):
    feeds = {"x": numbers(2, 6, 12), "sides": np.array([2, 3])}
    after = transform(SPREAD, ReshapeConstants(), feeds, modified=False)
    assert ops(after) == ["Shape", "Concat", "Reshape"]


IDLE = """
<ir_version: 10, opset_import: ["": 23]>
g (float[{dims}] x) => (float[{dims}] y)
{{
    target = Shape(x)
    same = Reshape(x, target)
    y = Neg(same)
}}
"""


@pytest.mark.parametrize("dims", ["batch, 77", "2, 77"])
def test_a_reshape_to_its_own_shape_goes(transform, numbers, dims):
    after = transform(IDLE.format(dims=dims), ReshapeConstants(), {"x": numbers(2, 77)})
    assert next(node for node in after.graph if node.op_type == "Neg").inputs[0].name == "x"


def test_a_constant_target_is_left_alone(transform, ops, numbers):
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[a, b] x) => (float[b, a] y)
    <int64[2] target = {-1, 3}>
    { y = Reshape(x, target) }
    """
    assert ops(transform(text, ReshapeConstants(), {"x": numbers(3, 4)}, modified=False)) == ["Reshape"]
