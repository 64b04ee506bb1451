"""Inputs without elements in engines of one size."""

import numpy as np
import onnx_ir as ir
import onnxruntime

from diffoundry.targets.empty_inputs import drop_empty_inputs

TEXT = """
<ir_version: 10, opset_import: ["": 23]>
joined (float[batch, tokens, 2] own, float[batch, more, 2] other, float[more, 2] table)
    => (float[batch, all, 2] whole, float[all, 2] angles, int64[1] count) {
    half = Cast<to = 1> (other)
    both = Concat<axis = 1> (own, half)
    whole = Relu(both)
    one = Constant<value = float[1, 2] {1.0, 2.0}> ()
    three = Concat<axis = 0> (one, one, table)
    angles = Relu(three)
    size = Shape<start = 1, end = 2> (other)
    two = Constant<value = int64[1] {2}> ()
    count = Add(size, two)
}
"""


def _run(model, feeds):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def test_results_without_the_inputs_are_those_with_empty_ones():
    own = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float32)
    empty = {"other": np.zeros((3, 0, 2), np.float32), "table": np.zeros((0, 2), np.float32)}
    expected = _run(ir.from_onnx_text(TEXT), {"own": own, **empty})
    model = ir.from_onnx_text(TEXT)
    drop_empty_inputs(model.graph, {"more": 0, "tokens": 5})
    assert [value.name for value in model.graph.inputs] == ["own"]
    assert [node.op_type for node in model.graph if node.op_type != "Constant"] == ["Relu", "Concat", "Relu", "Add"]
    for given, array in zip(_run(model, {"own": own}), expected, strict=True):
        np.testing.assert_array_equal(given, array)


def test_inputs_that_are_read_otherwise_stay():
    model = ir.from_onnx_text(TEXT.replace("Cast<to = 1> (other)", "Neg(other)").replace("start = 1, ", "start = 0, "))
    drop_empty_inputs(model.graph, {"more": 0})
    assert [value.name for value in model.graph.inputs] == ["own", "other"]
    model = ir.from_onnx_text(TEXT)
    drop_empty_inputs(model.graph, {"more": 4})
    assert len(model.graph.inputs) == 3
