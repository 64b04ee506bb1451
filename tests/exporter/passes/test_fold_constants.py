"""Constants and shape arithmetic are evaluated at build time, weights are not."""

import numpy as np
from onnx_ir.passes.common import RemoveUnusedNodesPass

from diffoundry.exporter.passes.fold_constants import FoldConstants

POSITIONS = """
<ir_version: 10, opset_import: ["": 23]>
g (int64[batch, 77] ids) => (int64[batch, 77] y)
<int64 zero = {0}, int64 one = {1}, int64[1] axis = {0}>
{
    length = Shape <start = 1, end = 2> (ids)
    scalar = Squeeze(length, axis)
    positions = Range(zero, scalar, one)
    y = Add(ids, positions)
}
"""


def test_positions_of_a_known_length_are_constant(transform, ops):
    ids = np.arange(154, dtype=np.int64).reshape(2, 77)
    after = transform(POSITIONS, FoldConstants(), {"ids": ids})
    added = next(node for node in after.graph if node.op_type == "Add").inputs[1]
    assert added.const_value.numpy().tolist() == list(range(77))


def test_positions_of_a_free_length_stay(transform, ops):
    ids = np.arange(154, dtype=np.int64).reshape(2, 77)
    after = transform(POSITIONS.replace("77", "length"), FoldConstants(), {"ids": ids}, modified=False)
    assert ops(after) == ["Shape", "Squeeze", "Range", "Add"]


SCALE = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, 8, h, w] x) => (float[batch, 8, h, w] y)
<int64[1] channels = {8}>
{
    ones = ConstantOfShape <value = float[1] {1}> (channels)
    zeros = ConstantOfShape (channels)
    y = GroupNormalization <num_groups = 2> (x, ones, zeros)
}
"""


def test_the_scale_of_a_normalization_without_one_is_constant(transform, ops, numbers):
    after = transform(SCALE, FoldConstants(), {"x": numbers(2, 8, 3, 3)})
    (norm,) = [node for node in after.graph if node.op_type == "GroupNormalization"]
    assert [value.const_value.numpy().tolist() for value in norm.inputs[1:]] == [[1.0] * 8, [0.0] * 8]


def test_a_large_constant_stays_an_operator(transform, ops, numbers):
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[70000] x) => (float[70000] y) <int64[1] size = {70000}>
    { zeros = ConstantOfShape (size) y = Add(x, zeros) }
    """
    after = transform(text, FoldConstants(), {"x": numbers(70000)}, modified=False)
    assert ops(after) == ["ConstantOfShape", "Add"]


SPLIT = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 8] x) => (float[2, 4] y)
<int64 four = {4}, int64 zero = {0}, int64 one = {1}>
{
    halves = SplitToSequence <axis = 1> (x, four)
    left = SequenceAt(halves, zero)
    right = SequenceAt(halves, one)
    y = Mul(left, right)
}
"""


def test_a_sequence_becomes_a_split(transform, ops, numbers):
    # onnx_ir's shape inference takes the sequence for a tensor, so it is left out here.
    after = transform(SPLIT, FoldConstants(), {"x": numbers(2, 8)}, infer=False)
    RemoveUnusedNodesPass()(after)
    assert ops(after) == ["Split", "Mul"]


WEIGHT = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 512] x, float[512, 512] w) => (float[2, 512] y)
{
    halved = Neg(w)
    y = MatMul(x, halved)
}
"""


def test_weights_are_not_folded(transform, ops, numbers):
    after = transform(
        WEIGHT, FoldConstants(), {"x": numbers(2, 512)}, weights={"w": numbers(512, 512)}, modified=False, atol=1e-3
    )
    assert ops(after) == ["Neg", "MatMul"]
