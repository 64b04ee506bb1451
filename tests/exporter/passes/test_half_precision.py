"""Half precision: what is converted, what stays, and that masks stay masks."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import ShapeInferencePass

from diffoundry.exporter.passes import KeepList
from diffoundry.exporter.passes.half_precision import HalfPrecision

HALF = ir.DataType.FLOAT16

# One rounding to float16 is 2^-11 = 4.9e-4 of a number; the graphs below round a few times.
TOLERANCE = {"rtol": 4e-3, "atol": 4e-3}

LINEAR = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 3] x, float[3, 4] w) => (float[2, 4] y)
{
    [product] p = MatMul(x, w)
    [last] y = Relu(p)
}
"""


def types(model):
    return {node.name: node.outputs[0].dtype for node in model.graph if node.op_type != "Cast"}


def test_weights_and_compute_are_half_and_the_edges_are_float(transform, ops, numbers):
    after = transform(LINEAR, HalfPrecision(), {"x": numbers(2, 3)}, weights={"w": numbers(3, 4)}, **TOLERANCE)
    assert ops(after) == ["Cast", "MatMul", "Relu", "Cast"]
    assert types(after) == {"product": HALF, "last": HALF}
    assert after.graph.initializers["w"].dtype == HALF
    assert [value.name for value in (*after.graph.inputs, *after.graph.outputs)] == ["x", "y"]
    assert {value.dtype for value in (*after.graph.inputs, *after.graph.outputs)} == {ir.DataType.FLOAT}


def test_weights_are_converted_when_they_are_written(transform, numbers):
    after = transform(LINEAR, HalfPrecision(), {"x": numbers(2, 3)}, weights={"w": numbers(3, 4)}, **TOLERANCE)
    assert isinstance(after.graph.initializers["w"].const_value, ir.LazyTensor)


@pytest.mark.parametrize(
    "keep", [KeepList(nodes=frozenset({"product"})), KeepList(op_types=frozenset({"MatMul"}))], ids=["name", "operator"]
)
def test_kept_nodes_stay_float(transform, ops, numbers, keep):
    after = transform(LINEAR, HalfPrecision(keep=keep), {"x": numbers(2, 3)}, weights={"w": numbers(3, 4)}, **TOLERANCE)
    assert ops(after) == ["MatMul", "Cast", "Relu", "Cast"]
    assert types(after) == {"product": ir.DataType.FLOAT, "last": HALF}
    assert after.graph.initializers["w"].dtype == ir.DataType.FLOAT


SHARED = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 3] x, float[3, 3] w) => (float[2, 3] y)
{
    [one] a = MatMul(x, w)
    [two] b = MatMul(a, w)
    [three] y = MatMul(b, w)
}
"""


def test_a_weight_of_both_kinds_of_nodes_is_stored_twice(transform, numbers):
    keep = KeepList(nodes=frozenset({"two"}))
    after = transform(
        SHARED, HalfPrecision(keep=keep), {"x": numbers(2, 3)}, weights={"w": numbers(3, 3)}, rtol=2e-2, atol=2e-2
    )
    assert {value.name: value.dtype for value in after.graph.initializers.values()} == {
        "w": ir.DataType.FLOAT,
        "w_half": HALF,
    }


TIME = """
<ir_version: 10, opset_import: ["": 23]>
g (float[1] step, float[1, 4] frequencies, float[8, 2] w) => (float[1, 2] y)
<int64[1] axis = {1}>
{
    [column] c = Unsqueeze(step, axis)
    [angle] a = Mul(c, frequencies)
    [sine] s = Sin(a)
    [cosine] k = Cos(a)
    [both] b = Concat <axis = 1> (s, k)
    [linear] y = MatMul(b, w)
}
"""


def test_the_timestep_embedding_stays_float_up_to_its_sines(transform, numbers):
    weights = {"frequencies": np.array([[1, 0.31, 0.1, 0.031]], np.float32), "w": numbers(8, 2)}
    after = transform(TIME, HalfPrecision(), {"step": np.array([981.3], np.float32)}, weights=weights, **TOLERANCE)
    kept = {name for name, dtype in types(after).items() if dtype == ir.DataType.FLOAT}
    assert kept == {"column", "angle", "sine", "cosine"}


def test_without_that_the_angles_are_wrong(transform, numbers):
    weights = {"frequencies": np.array([[1, 0.31, 0.1, 0.031]], np.float32), "w": numbers(8, 2)}
    careless = HalfPrecision(keep=KeepList(upstream_of=frozenset()))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        transform(TIME, careless, {"step": np.array([981.3], np.float32)}, weights=weights, **TOLERANCE)


POSITIONS = """
<ir_version: 10, opset_import: ["": 23]>
g (int64[3] distances, float scale, float[40, 2] table) => (float[3, 2] y)
{
    [wide] d = Cast <to = 1> (distances)
    [scaled] f = Mul(d, scale)
    [index] i = Cast <to = 7> (f)
    [rows] y = Gather(table, i)
}
"""


def test_indices_are_computed_in_float(transform, numbers):
    """In half precision 2999 is 3000, and its row the next one."""
    weights = {"scale": np.array(0.01, np.float32), "table": numbers(40, 2)}
    after = transform(
        POSITIONS, HalfPrecision(), {"distances": np.array([7, 2999, 3999])}, weights=weights, **TOLERANCE
    )
    found = {node.name: node.outputs[0].dtype for node in after.graph if node.name in ("wide", "scaled", "rows")}
    assert found == {"wide": ir.DataType.FLOAT, "scaled": ir.DataType.FLOAT, "rows": HALF}


MASK = """
<ir_version: 10, opset_import: ["": 23]>
g (float[1, 3] x, float[3, 3] mask) => (float[3, 3] y)
{
    s = Add(x, mask)
    y = Softmax(s)
}
"""


@pytest.mark.parametrize("masked", [np.finfo(np.float32).min, -np.inf])
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_masks_beyond_the_range_stay_masks(numbers, masked, dtype):
    mask = np.where(np.tri(3, dtype=bool), 0, masked).astype(np.float32)
    mask[2] = np.finfo(np.float32).min  # a wholly masked row must not become NaN
    model = ir.from_onnx_text(MASK)
    value = model.graph.inputs.pop(1)
    value.const_value = ir.tensor(mask, name="mask")
    model.graph.register_initializer(value)
    ShapeInferencePass()(model)
    HalfPrecision(dtype=dtype)(model)
    converted = model.graph.initializers["mask"].const_value.numpy().astype(np.float64)
    assert converted.dtype == np.float64
    assert np.isinf(converted).sum() == np.isinf(mask).sum()
    assert np.all(converted[mask < -1] <= -65504)


def test_bfloat16_is_the_same_pass(numbers):
    model = ir.from_onnx_text(LINEAR)
    value = model.graph.inputs.pop(1)
    value.const_value = ir.tensor(numbers(3, 4), name="w")
    model.graph.register_initializer(value)
    ShapeInferencePass()(model)
    HalfPrecision(dtype=ir.DataType.BFLOAT16)(model)
    assert types(model) == {"product": ir.DataType.BFLOAT16, "last": ir.DataType.BFLOAT16}
    weight = model.graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(weight, numbers(3, 4).astype(ml_dtypes.bfloat16))


RESIZE = """
<ir_version: 10, opset_import: ["": 23]>
g (float[1, 1, 2, 2] x, float[4] scales) => (float[1, 1, 4, 4] y)
{ y = Resize <mode = "nearest"> (x, , scales) }
"""


LENGTH = """
<ir_version: 10, opset_import: ["": 23]>
g (float[1, 400, 8] x) => (float[1, 1, 8] y)
<int64[1] axis = {1}>
{ y = ReduceL2(x, axis) }
"""


@pytest.mark.parametrize(("keep", "length"), [(KeepList(), 400), (KeepList(op_types=frozenset()), np.inf)])
def test_squares_are_added_up_in_float(keep, length):
    """By ONNX's reference: engines differ in whether they add up halves in float32."""
    model = ir.from_onnx_text(LENGTH)
    HalfPrecision(keep=keep)(model)
    with np.errstate(over="ignore"):
        (y,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": np.full((1, 400, 8), 20, np.float32)})
    np.testing.assert_array_equal(y, np.full((1, 1, 8), length, np.float32))


LINEAR_ATTENTION = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 500] x, float[2, 2] w) => (float[1, 500] y)
<float guard = {1e-15}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}>
{
    [project] p = MatMul(w, x)
    [positive] q = Relu(p)
    [transpose] t = Transpose <perm = [1, 0]> (q)
    [weigh] s = MatMul(q, t)
    [apply] h = MatMul(s, q)
    [value] v = Slice(h, zero, one, zero)
    [sum] n = Slice(h, one, two, zero)
    [guarded] g = Add(n, guard)
    [divide] y = Div(v, g)
}
"""


def test_linear_attention_stays_float_up_to_its_weights(transform, numbers):
    """Sums over all positions exceed the range of halves, and their guard is below it."""
    x = np.abs(numbers(2, 500)) + 20
    x[:, 100] = 0
    after = transform(
        LINEAR_ATTENTION, HalfPrecision(), {"x": x}, weights={"w": np.array([[1, 0.5], [0.5, 1]], np.float32)},
        **TOLERANCE,
    )  # fmt: skip
    assert {name for name, dtype in types(after).items() if dtype == HALF} == {"project"}


def test_scales_of_resize_stay_float(transform, numbers):
    weights = {"scales": np.array([1, 1, 2, 2], np.float32)}
    after = transform(RESIZE, HalfPrecision(), {"x": numbers(1, 1, 2, 2)}, weights=weights, **TOLERANCE)
    assert after.graph.initializers["scales"].dtype == ir.DataType.FLOAT


def test_casts_to_float_become_casts_to_half(transform, ops):
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (int64[3] ids) => (float[3] y)
    { [cast] c = Cast <to = 1> (ids) [last] y = Neg(c) }
    """
    after = transform(text, HalfPrecision(), {"ids": np.array([1, 2, 3])}, **TOLERANCE)
    assert after.graph[0].attributes["to"].as_int() == HALF
    assert ops(after) == ["Cast", "Neg", "Cast"]


def test_integers_are_left_alone(transform, ops):
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (int64[3] ids) => (int64[3] y)
    { y = Neg(ids) }
    """
    assert ops(transform(text, HalfPrecision(), {"ids": np.array([1, 2, 3])}, modified=False)) == ["Neg"]


def test_a_graph_with_constant_nodes_is_refused():
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[3] x) => (float[3] y)
    { c = Constant <value = float {2.0}> () y = Mul(x, c) }
    """
    with pytest.raises(ir.passes.PreconditionError, match="run portable_passes first"):
        HalfPrecision()(ir.from_onnx_text(text))


def test_a_graph_of_unknown_types_is_refused():
    model = ir.from_onnx_text(LINEAR)
    with pytest.raises(ir.passes.PreconditionError, match="without the type of p;"):
        HalfPrecision()(model)
