"""Equal constants are stored once, equal weights are not."""

import onnx_ir as ir
import pytest

from diffoundry.exporter.passes.deduplicate_constants import DeduplicateConstants
from diffoundry.exporter.steps.graph_names import WEIGHT_KEY

TEXT = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2] x) => (float[2] y)
<float one = {1}, float same = {1}, float[1] list = {1}, int64 whole = {1}, float other = {2}>
{
    a = Add(x, one)
    b = Add(a, same)
    c = Add(b, list)
    d = Mul(c, other)
    w = Cast <to = 1> (whole)
    y = Add(d, w)
}
"""


def test_equal_constants_are_one(transform, numbers):
    after = transform(TEXT, DeduplicateConstants(), {"x": numbers(2)})
    assert set(after.graph.initializers) == {"one", "list", "whole", "other"}
    assert after.graph[1].inputs[1].name == "one"


def test_equal_weights_stay_two():
    model = ir.from_onnx_text(TEXT)
    for name in ("one", "same"):
        model.graph.initializers[name].metadata_props[WEIGHT_KEY] = name
    assert not DeduplicateConstants()(model).modified
    assert {"one", "same"} <= set(model.graph.initializers)


@pytest.mark.parametrize("size", [256, 257])
def test_large_constants_are_not_compared(size):
    model = ir.from_onnx_text(TEXT)
    for name in ("p", "q"):
        value = ir.Value(
            name=name,
            shape=ir.Shape([size]),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor([0.0] * size, dtype=ir.DataType.FLOAT, name=name),
        )
        model.graph.register_initializer(value)
    DeduplicateConstants()(model)
    assert ("q" in model.graph.initializers) is (size > 256)
