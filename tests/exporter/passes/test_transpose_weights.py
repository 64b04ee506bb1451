"""Weights of linear layers are stored transposed, under a name that says so."""

import onnx_ir as ir
import pytest

from diffoundry.exporter.passes.transpose_weights import TransposeWeights

LINEAR = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 3] x, float[5, 3] w) => (float[2, 5] y)
{
    t = Transpose <perm = [1, 0]> (w)
    y = MatMul(x, t)
}
"""


def test_a_weight_is_transposed_under_a_name_that_says_so(transform, ops, numbers):
    after = transform(LINEAR, TransposeWeights(), {"x": numbers(2, 3)}, weights={"w": numbers(5, 3)})
    assert ops(after) == ["MatMul"]
    weight = after.graph[0].inputs[1]
    assert weight.name == "w.T"
    assert isinstance(weight.const_value, ir.LazyTensor), "it must not be read before it is written"


def test_the_tracers_metadata_goes_along(numbers):
    model = ir.from_onnx_text(LINEAR)
    weight = model.graph.inputs.pop(1)
    weight.const_value = ir.tensor(numbers(5, 3), name="w")
    weight.metadata_props["diffoundry.weight"] = "to_q.weight"
    model.graph.register_initializer(weight)
    assert TransposeWeights()(model).modified
    assert model.graph.initializers["w.T"].metadata_props["diffoundry.weight"] == "to_q.weight"


def test_an_activation_stays(transform, ops, numbers):
    after = transform(LINEAR, TransposeWeights(), {"x": numbers(2, 3), "w": numbers(5, 3)}, modified=False)
    assert ops(after) == ["Transpose", "MatMul"]


@pytest.mark.parametrize(("shape", "order"), [((5, 3), "[0, 1]"), ((1, 5, 3), "[0, 2, 1]")])
def test_other_orders_stay(transform, ops, numbers, shape, order):
    text = f"""
    <ir_version: 10, opset_import: ["": 23]>
    g (float[{", ".join(map(str, shape))}] w) => (float[{", ".join("abc"[: len(shape)])}] y)
    {{ t = Transpose <perm = {order}> (w) y = Neg(t) }}
    """
    assert (
        ops(transform(text, TransposeWeights(), {}, weights={"w": numbers(*shape)}, modified=False))[0] == "Transpose"
    )
