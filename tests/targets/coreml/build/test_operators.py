"""Every translator on a small graph: what was saved, run by the interpreter, against ONNX Runtime."""

import re

import coremltools as ct
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from coreml_interpreter.run import Interpreter
from onnx_ir.passes import common

from diffoundry.targets.coreml.build.fix_sizes import pin
from diffoundry.targets.coreml.build.operators import OPERATORS
from diffoundry.targets.coreml.build.package import write_package
from diffoundry.targets.coreml.build.program import make_program, refusals
from diffoundry.targets.coreml.build.translation import Style

GENERATOR = np.random.default_rng(5)


def w(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


def i(*numbers):
    return np.array(numbers, np.int64)


X = "float[2,6,8,8] x"
T = "float[2,5,12] x"

CASES = {
    # name: (inputs, outputs, body, constants)
    "Abs": (T, "float[2,5,12] y", "y = Abs(x)", {}),
    "Add": (T, "float[2,5,12] y", "y = Add(x, c)", {"c": w(12)}),
    "Add of two": (f"{T}, float[5,12] z", "float[2,5,12] y", "y = Add(z, x)", {}),
    "ArgMax": ("int32[2,7] x", "int64[2] y", "y = ArgMax<axis=-1, keepdims=0>(x)", {}),
    "ArgMax, kept": ("float[2,7] x", "int64[1,7] y", "y = ArgMax<axis=0, keepdims=1>(x)", {}),
    "AveragePool": (X, "float[2,6,4,4] y", "y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x)", {}),
    "AveragePool, padded": (
        X, "float[2,6,9,4] y", "y = AveragePool<kernel_shape=[2,3], strides=[1,2], pads=[1,1,1,0]>(x)", {}),
    "AveragePool, padding counted": (
        X, "float[2,6,9,8] y", "y = AveragePool<kernel_shape=[2,1], pads=[1,0,1,0], count_include_pad=1>(x)", {}),
    "Cast": ("int32[2,7] x", "float[2,7] y", "y = Cast<to=1>(x)", {}),
    "Cast to half": (T, "float[2,5,12] y", "h = Cast<to=10>(x)\ny = Cast<to=1>(h)", {}),
    "Cast of a comparison": ("int32[2,7] x", "int32[2,7] y", "e = Equal(x, c)\ny = Cast<to=6>(e)", {"c": np.int32(3)}),
    "Clip": (T, "float[2,5,12] y", "y = Clip(x, a, b)", {"a": np.float32(-0.5), "b": np.float32(0.7)}),
    "Clip above": (T, "float[2,5,12] y", "y = Clip(x, , b)", {"b": np.float32(0.7)}),
    "Concat": (f"{T}, float[2,3,12] z", "float[2,8,12] y", "y = Concat<axis=1>(x, z)", {}),
    "Conv": (X, "float[2,4,8,8] y", "y = Conv<pads=[1,1,1,1]>(x, k, b)", {"k": w(4, 6, 3, 3), "b": w(4)}),
    "Conv, strides, dilations": (
        X, "float[2,4,3,4] y", "y = Conv<pads=[0,1,1,2], strides=[2,2], dilations=[2,1]>(x, k)", {"k": w(4, 6, 3, 4)}),
    "Conv, groups": (X, "float[2,4,8,8] y", "y = Conv<group=2>(x, k)", {"k": w(4, 3, 1, 1)}),
    "Conv of one axis": ("float[2,6,9] x", "float[2,4,9] y", "y = Conv<pads=[1,1]>(x, k)", {"k": w(4, 6, 3)}),
    "ConvTranspose": (
        X, "float[2,4,15,16] y", "y = ConvTranspose<strides=[2,2], pads=[1,0,1,1]>(x, k, b)",
        {"k": w(6, 4, 3, 3), "b": w(4)}),
    "ConvTranspose, groups": (
        X, "float[2,6,16,16] y", "y = ConvTranspose<group=6, strides=[2,2], pads=[1,1,1,1]>(x, k)",
        {"k": w(6, 1, 4, 4)}),
    "Cos": (T, "float[2,5,12] y", "y = Cos(x)", {}),
    "Div": (T, "float[2,5,12] y", "y = Div(x, c)", {"c": np.abs(w(5, 1)) + 1}),
    "Einsum": (
        "float[2,3,5] x, float[2,3,7] z", "float[2,5,7] y", 'y = Einsum<equation="bct,bcs->bts">(x, z)', {}),
    "Einsum, turned": (
        "float[2,5,7] x, float[2,3,7] z", "float[2,3,5] y", 'y = Einsum<equation="bts, bcs -> bct">(x, z)', {}),
    "Einsum without a batch": (
        "float[5,7] x, float[7,3] z", "float[5,3] y", 'y = Einsum<equation="ij,jk->ik">(x, z)', {}),
    "Equal, Where": ("int32[2,7] x, float[2,7] z", "float[2,7] y", "e = Equal(x, c)\ny = Where(e, z, d)",
                     {"c": np.int32(3), "d": np.float32(9)}),
    "Erf": (T, "float[2,5,12] y", "y = Erf(x)", {}),
    "Exp": (T, "float[2,5,12] y", "y = Exp(x)", {}),
    "Expand": ("float[1,12] x", "float[2,5,12] y", "y = Expand(x, s)", {"s": i(2, 5, 12)}),
    "Flatten": (X, "float[2,384] y", "y = Flatten<axis=1>(x)", {}),
    "Gather": ("int32[2,7] x", "float[2,7,5] y", "y = Gather(c, x)", {"c": w(9, 5)}),
    "Gather along an axis": (T, "float[2,3,12] y", "y = Gather<axis=1>(x, c)", {"c": i(4, 0, 2)}),
    "GatherND": ("float[2,7,5] x, int64[2,2] n", "float[2,5] y", "y = GatherND(x, n)", {}),
    "Gelu": (T, "float[2,5,12] y", "y = Gelu(x)", {}),
    "Gelu by tanh": (T, "float[2,5,12] y", 'y = Gelu<approximate="tanh">(x)', {}),
    "Gemm": ("float[3,12] x", "float[3,4] y", "y = Gemm<transB=1>(x, k, b)", {"k": w(4, 12), "b": w(4)}),
    "Gemm, not transposed": ("float[3,12] x", "float[3,4] y", "y = Gemm(x, k)", {"k": w(12, 4)}),
    "Gemm of two": ("float[3,12] x, float[4,12] z", "float[3,4] y", "y = Gemm<transB=1>(x, z, b)", {"b": w(4)}),
    "DepthToSpace": ("float[2,18,4,5] x", "float[2,2,12,15] y", 'y = DepthToSpace<blocksize=3, mode="CRD">(x)', {}),
    "GreaterOrEqual": ("int32[2,7] x, float[2,7] z", "float[2,7] y", "e = GreaterOrEqual(x, c)\ny = Where(e, z, d)",
                       {"c": np.int32(3), "d": np.float32(9)}),
    "GroupNormalization": (
        X, "float[2,6,8,8] y", "y = GroupNormalization<num_groups=3, epsilon=1e-3>(x, s, b)", {"s": w(6), "b": w(6)}),
    "GroupNormalization, flat": (
        "float[2,6,9] x", "float[2,6,9] y", "y = GroupNormalization<num_groups=2>(x, s, b)", {"s": w(6), "b": w(6)}),
    "Identity": (T, "float[2,5,12] y, float[2,5,12] z", "y = Identity(x)\nz = Identity(y)", {}),
    "LayerNormalization": (
        T, "float[2,5,12] y", "y = LayerNormalization<axis=-1, epsilon=1e-3>(x, s, b)", {"s": w(12), "b": w(12)}),
    "LayerNormalization of two axes": (
        T, "float[2,5,12] y", "y = LayerNormalization<axis=1>(x, s)", {"s": w(5, 12)}),
    "RMSNormalization": (T, "float[2,5,12] y", "y = RMSNormalization<axis=-1, epsilon=1e-3>(x, s)", {"s": w(12)}),
    "RMSNormalization of two axes": (
        T, "float[2,5,12] y", "y = RMSNormalization<axis=1, epsilon=0.1>(x, s)", {"s": w(5, 12)}),
    "LeakyRelu": (T, "float[2,5,12] y", "y = LeakyRelu<alpha=0.2>(x)", {}),
    "Log": (T, "float[2,5,12] y", "a = Abs(x)\ny = Log(a)", {}),
    "MatMul": (T, "float[2,5,4] y", "y = MatMul(x, k)", {"k": w(12, 4)}),
    "MatMul, bias": (T, "float[2,5,4] y", "m = MatMul(x, k)\ny = Add(b, m)", {"k": w(12, 4), "b": w(4)}),
    "MatMul of two": ("float[2,3,5,4] x, float[2,3,4,7] z", "float[2,3,5,7] y", "y = MatMul(x, z)", {}),
    "MatMul of rank four": ("float[2,3,5,4] x", "float[2,3,5,7] y", "y = MatMul(x, k)", {"k": w(4, 7)}),
    "MaxPool": (X, "float[2,6,3,5] y", "y = MaxPool<kernel_shape=[3,2], strides=[3,2], pads=[0,1,1,1]>(x)", {}),
    "Mul": (T, "float[2,5,12] y", "y = Mul(c, x)", {"c": np.float32(1.7)}),
    "Neg": (T, "float[2,5,12] y", "y = Neg(x)", {}),
    "Neg of whole numbers": ("int32[2,7] x", "int32[2,7] y", "y = Neg(x)", {}),
    "Pad": (X, "float[2,6,9,11] y", "y = Pad(x, p, v)", {"p": i(0, 0, 0, 1, 0, 0, 1, 2), "v": np.float32(0.5)}),
    "Pad, edge": (X, "float[2,6,10,9] y", 'y = Pad<mode="edge">(x, p)', {"p": i(0, 0, 1, 0, 0, 0, 1, 1)}),
    "Pad, reflect, axes": (X, "float[2,6,8,11] y", 'y = Pad<mode="reflect">(x, p, , a)', {"p": i(1, 2), "a": i(-1)}),
    "Pow": (T, "float[2,5,12] y", "y = Pow(x, c)", {"c": i(2)[0]}),
    "Relu": (T, "float[2,5,12] y", "y = Relu(x)", {}),
    "Reshape": (X, "float[2,3,128] y", "y = Reshape(x, s)", {"s": i(0, 3, -1)}),
    "Resize by two": (
        X, "float[2,6,16,24] y",
        'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , , s)',
        {"s": i(2, 6, 16, 24)}),
    "Resize by a fraction": (
        "float[2,6,5,3] x", "float[2,6,9,6] y",
        'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , , s)',
        {"s": i(2, 6, 9, 6)}),
    "Resize by a scale": (
        X, "float[2,6,16,16] y",
        'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , s)',
        {"s": np.array([1, 1, 2, 2], np.float32)}),
    "Resize, linear, aligned corners": (
        X, "float[2,6,16,24] y",
        'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , , s)', {"s": i(2, 6, 16, 24)}),
    "Resize, linear, one row": (
        "float[2,6,1,3] x", "float[2,6,2,6] y",
        'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , , s)', {"s": i(2, 6, 2, 6)}),
    "Resize, linear, half pixels": (
        X, "float[2,6,16,24] y", 'y = Resize<mode="linear">(x, , , s)', {"s": i(2, 6, 16, 24)}),
    "Sigmoid": (T, "float[2,5,12] y", "y = Sigmoid(x)", {}),
    "Sin": (T, "float[2,5,12] y", "y = Sin(x)", {}),
    "Slice": (T, "float[2,3,6] y", "y = Slice(x, a, b, c, d)",
              {"a": i(1, -6), "b": i(4, 2**62), "c": i(1, -1), "d": i(1, 1)}),
    "CumSum": (T, "float[2,5,12] y", "y = CumSum(x, a)", {"a": np.int64(1)}),
    "CumSum reversed": (T, "float[2,5,12] y", "y = CumSum<exclusive=1, reverse=1>(x, a)", {"a": np.int64(-1)}),
    "Slice with steps": (T, "float[2,2,12] y", "y = Slice(x, a, b, c, d)",
                         {"a": i(1), "b": i(-1), "c": i(1), "d": i(2)}),
    "Reciprocal": (T, "float[2,5,12] y", "a = Abs(x)\nb = Add(a, c)\ny = Reciprocal(b)", {"c": np.float32(0.5)}),
    "ReduceSum": (T, "float[2,12] y", "y = ReduceSum<keepdims=0>(x, a)", {"a": i(1)}),
    "ReduceMean": (T, "float[2,5,1] y", "y = ReduceMean(x, a)", {"a": i(-1)}),
    "ReduceL2": (T, "float[2,5,1] y", "y = ReduceL2(x, a)", {"a": i(-1)}),
    "Softmax": (T, "float[2,5,12] y", "y = Softmax<axis=1>(x)", {}),
    "LogSoftmax": (T, "float[2,5,12] y", "y = LogSoftmax<axis=1>(x)", {}),
    "LogSoftmax of numbers far apart": (
        T, "float[2,5,12] y", "a = Mul(x, c)\ny = LogSoftmax(a)", {"c": np.float32(300)}),
    "Split": (T, "float[2,5,5] y, float[2,5,7] z", "y, z = Split<axis=-1>(x, s)", {"s": i(5, 7)}),
    "Split in halves": (T, "float[2,5,6] y, float[2,5,6] z", "y, z = Split<axis=2, num_outputs=2>(x)", {}),
    "Sqrt": (T, "float[2,5,12] y", "a = Abs(x)\ny = Sqrt(a)", {}),
    "Squeeze": ("float[2,1,5,1] x", "float[2,5] y", "y = Squeeze(x, a)", {"a": i(1, 3)}),
    "Squeeze all": ("float[2,1,5,1] x", "float[2,5] y", "y = Squeeze(x)", {}),
    "Sub": (T, "float[2,5,12] y", "y = Sub(c, x)", {"c": w(1, 5, 1)}),
    "Tanh": (T, "float[2,5,12] y", "y = Tanh(x)", {}),
    "Transpose": (X, "float[8,2,6,8] y", "y = Transpose<perm=[3,0,1,2]>(x)", {}),
    "Transpose, reversed": (T, "float[12,5,2] y", "y = Transpose(x)", {}),
    "Unsqueeze": (T, "float[1,2,5,1,12] y", "y = Unsqueeze(x, a)", {"a": i(0, -2)}),
}  # fmt: skip

QKV = "float[2,3,5,8] q, float[2,3,7,8] k, float[2,3,7,8] v"
FLAT = "float[2,5,24] q, float[2,7,24] k, float[2,7,24] v"
HEADS = "q_num_heads=3, kv_num_heads=3"

ATTENTION = {
    "Attention": (QKV, "float[2,3,5,8] y", "y = Attention(q, k, v)", {}),
    "Attention, scale": (QKV, "float[2,3,5,8] y", "y = Attention<scale=0.2>(q, k, v)", {}),
    "Attention, causal": (QKV.replace("7", "5"), "float[2,3,5,8] y", "y = Attention<is_causal=1>(q, k, v)", {}),
    "Attention, mask": (QKV, "float[2,3,5,8] y", "y = Attention(q, k, v, m)", {"m": w(5, 7)}),
    "Attention, mask of -inf": (
        QKV, "float[2,3,5,8] y", "y = Attention(q, k, v, m)",
        {"m": np.where(np.arange(7) < 4, 0, np.finfo(np.float32).min).astype(np.float32)[None].repeat(5, 0)}),
    "Attention, masks of heads": (QKV, "float[2,3,5,8] y", "y = Attention(q, k, v, m)", {"m": w(1, 3, 5, 7)}),
    "Attention, computed masks of heads": (
        f"{QKV}, float[1,3,5,7] m", "float[2,3,5,8] y", "y = Attention(q, k, v, m)", {}),
    "Attention, computed mask of all heads": (
        f"{QKV}, float[1,1,5,7] m", "float[2,3,5,8] y", "y = Attention(q, k, v, m)", {}),
    "Attention, computed masks of rows": (
        f"{QKV}, float[2,1,5,7] m", "float[2,3,5,8] y", "y = Attention(q, k, v, m)", {}),
    "Attention, masks of rows": (QKV, "float[2,3,5,8] y", "y = Attention(q, k, v, m)", {"m": w(2, 1, 5, 7)}),
    "Attention, mask of booleans": (QKV, "float[2,3,5,8] y", "y = Attention(q, k, v, m)", {"m": w(5, 7) > -1}),
    "Attention on tokens": (FLAT, "float[2,5,24] y", f"y = Attention<{HEADS}>(q, k, v)", {}),
    "Attention on tokens, causal": (
        FLAT.replace("7", "5"), "float[2,5,24] y", f"y = Attention<{HEADS}, is_causal=1, scale=0.3>(q, k, v)", {}),
    "Attention, one head": (QKV.replace("3", "1"), "float[2,1,5,8] y", "y = Attention(q, k, v)", {}),
}  # fmt: skip


def parse(inputs, outputs, body, constants):
    """The graph, its constants as initializers, its shapes known."""
    text = f'<ir_version: 10, opset_import: ["": 23]>\ng ({inputs}) => ({outputs})\n{{\n{body}\n}}'
    model = ir.from_onnx_text(text)
    for name, array in constants.items():
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        model.graph.register_initializer(value)
        for node in model.graph:
            for place, used in enumerate(node.inputs):
                if used is not None and used.name == name and used is not value:
                    node.replace_input_with(place, value)
    common.ShapeInferencePass(data_prop=True)(model)
    for value in (value for node in model.graph for value in node.outputs):
        if value.shape is None:  # the standard's inference stops at GroupNormalization
            value.shape = ir.Shape([int(n) for n in re.findall(rf"\[([\d,]+)\] {value.name}\b", outputs)[0].split(",")])
    return model


def feeds_of(model):
    generator = np.random.default_rng(1)
    feeds = {}
    for value in model.graph.inputs:
        shape = value.shape.numpy()
        if value.dtype == ir.DataType.FLOAT:
            feeds[value.name] = generator.standard_normal(shape).astype(np.float32)
        else:
            feeds[value.name] = generator.integers(0, 2 if value.name == "n" else 5, shape).astype(value.dtype.numpy())
    return feeds


def by_onnxruntime(model, feeds):
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def as_package(model, path, opset, **style):
    """Lower a graph and open what was saved."""
    assert refusals(model, opset) == []
    settings = {"attention": "decomposed"} | style
    write_package(make_program(model, Style(opset=opset, **settings), swift=False), path, opset, {})
    return Interpreter(path)


def check(case, path, opset, **style):
    expected = by_onnxruntime(parse(*case), feeds := feeds_of(parse(*case)))
    model = parse(*case)
    pin(model, {})
    interpreter = as_package(model, path, opset, **style)
    given = {name: array.astype(interpreter.function.inputs[name].dtype) for name, array in feeds.items()}
    run = interpreter.run(given)
    for value, array in zip(model.graph.outputs, expected, strict=True):
        np.testing.assert_allclose(run.outputs[value.name], array, rtol=2e-5, atol=2e-6)
    return run


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "opset", [pytest.param("iOS16", marks=pytest.mark.slow), "iOS17", pytest.param("iOS18", marks=pytest.mark.slow)]
)
def test_translator(tmp_path, name, opset):
    check(CASES[name], tmp_path / "p.mlpackage", ct.target[opset])


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize(
    ("opset", "attention"), [("iOS16", "decomposed"), ("iOS18", "fused"), ("iOS17", "split-einsum")]
)
def test_attention(tmp_path, name, opset, attention):
    run = check(ATTENTION[name], tmp_path / "p.mlpackage", ct.target[opset], attention=attention)
    expected = {"decomposed": "matmul", "fused": "scaled_dot_product_attention", "split-einsum": "einsum"}
    assert set(expected.values()) & set(run.counts) == {expected[attention]}
    assert run.non_finite == []


@pytest.mark.parametrize(("case", "bias"), [("GroupNormalization", (1, 6, 1, 1)), ("LayerNormalization", (1, 1, 12))])
def test_a_constant_input_gives_exactly_the_bias(tmp_path, case, bias):
    """In float32 the program normalises the difference to an element, which is 0 whatever the device's sums are."""
    model = parse(*CASES[case])
    pin(model, {})
    shape = model.graph.inputs[0].shape.numpy()
    run = as_package(model, tmp_path / "p.mlpackage", ct.target.iOS17).run({"x": np.full(shape, 10.07, np.float32)})
    assert run.counts["sub"] == run.counts["slice_by_size"] == 1
    expected = np.broadcast_to(CASES[case][3]["b"].reshape(bias), shape)
    np.testing.assert_array_equal(run.outputs["y"], expected)


def test_every_operator_of_the_table_has_a_case():
    cases = {word for name in (*CASES, *ATTENTION) for word in re.findall(r"\w+", name)}
    tested_elsewhere = {"QuantizeLinear", "DequantizeLinear"}
    assert set(OPERATORS) - cases == tested_elsewhere


REFUSED = {
    "the operator Selu has no translation": (T, "float[2,5,12] y", "y = Selu(x)", {}),
    "the operator Mod has no translation": (T, "float[2,5,12] y", "y = Mod<fmod=1>(x, x)", {}),
    "ArgMax .* takes the last of equals": (T, "int64[2,5,1] y", "y = ArgMax<axis=2, select_last_index=1>(x)", {}),
    "Attention .* softcap": (QKV, "float[2,3,5,8] y", "y = Attention<softcap=2.0>(q, k, v)", {}),
    "Attention .* computes its mask": (f"{QKV}, float[5,7] m", "float[2,3,5,8] y", "y = Attention(q, k, v, m)", {}),
    "Attention .* gives its scores": (
        QKV, "float[2,3,5,8] y, float[2,3,5,7] s", "y, , , s = Attention(q, k, v)", {}),
    "Attention .* 3 heads of queries and 1 of keys": (
        "float[2,3,5,8] q, float[2,1,7,8] k, float[2,1,7,8] v", "float[2,3,5,8] y", "y = Attention(q, k, v)", {}),
    "AveragePool .* ceil_mode": (
        X, "float[2,6,3,3] y", "y = AveragePool<kernel_shape=[3,3], strides=[3,3], ceil_mode=1>(x)", {}),
    "AveragePool .* auto_pad": (
        X, "float[2,6,8,8] y", 'y = AveragePool<kernel_shape=[2,2], auto_pad="SAME_UPPER">(x)', {}),
    "AveragePool .* three or more spatial axes": (
        "float[1,2,4,4,4] x", "float[1,2,4,4,4] y", "y = AveragePool<kernel_shape=[1,1,1]>(x)", {}),
    "ConvTranspose .* output_padding": (
        X, "float[2,4,18,17] y", "y = ConvTranspose<strides=[2,2], output_padding=[1,0]>(x, k)",
        {"k": w(6, 4, 3, 3)}),
    "Einsum .* equation 'ij,jk->', expected": (
        "float[5,7] x, float[7,3] z", "float[] y", 'y = Einsum<equation="ij,jk->">(x, z)', {}),
    "Einsum .* equation 'ii->i', expected a product": (
        "float[5,5] x", "float[5] y", 'y = Einsum<equation="ii->i">(x)', {}),
    "Conv .* three or more spatial axes": (
        "float[1,2,4,4,4] x", "float[1,3,4,4,4] y", "y = Conv(x, k)", {"k": w(3, 2, 1, 1, 1)}),
    "Conv .* auto_pad": (X, "float[2,4,8,8] y", 'y = Conv<auto_pad="SAME_UPPER">(x, k)', {"k": w(4, 6, 3, 3)}),
    "Conv .* computes its kernel": (f"{X}, float[4,6,1,1] k", "float[2,4,8,8] y", "y = Conv(x, k)", {}),
    "DepthToSpace .* mode 'DCR', expected 'CRD'": (
        "float[2,18,4,5] x", "float[2,2,12,15] y", "y = DepthToSpace<blocksize=3>(x)", {}),
    "Gemm .* plain linear layer": ("float[12,3] x", "float[3,4] y", "y = Gemm<transA=1>(x, k)", {"k": w(12, 4)}),
    "LayerNormalization .* computes its scale": (
        f"{T}, float[12] s", "float[2,5,12] y", "y = LayerNormalization(x, s)", {}),
    "MatMul .* multiplies a vector": ("float[2,12] x", "float[2] y", "y = MatMul(x, k)", {"k": w(12)}),
    "Pad .* cuts off": (T, "float[2,5,11] y", "y = Pad(x, p)", {"p": i(0, 0, 0, 0, 0, -1)}),
    "Pad .* mode 'wrap'": (T, "float[2,5,13] y", 'y = Pad<mode="wrap">(x, p)', {"p": i(0, 0, 0, 0, 0, 1)}),
    "MaxPool .* the places of its maxima": (
        X, "float[2,6,4,4] y, int64[2,6,4,4] n", "y, n = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)", {}),
    "Resize .* mode 'cubic', expected 'nearest'": (
        X, "float[2,6,16,16] y", 'y = Resize<mode="cubic">(x, , , s)', {"s": i(2, 6, 16, 16)}),
    "Resize .* interpolates by a fraction": (
        X, "float[2,6,12,16] y", 'y = Resize<mode="linear">(x, , , s)', {"s": i(2, 6, 12, 16)}),
    "Resize .* coordinates 'asymmetric', expected align_corners or half_pixel": (
        X, "float[2,6,16,16] y",
        'y = Resize<mode="linear", coordinate_transformation_mode="asymmetric">(x, , , s)', {"s": i(2, 6, 16, 16)}),
    "Slice .* goes backwards": (T, "float[2,5,12] y", "y = Slice(x, a, b, c, d)",
                                {"a": i(-1), "b": i(-(2**62)), "c": i(1), "d": i(-1)}),
    "has 6 dimensions, Core ML takes 5": (T, "float[1,2,5,1,12,1] y", "y = Unsqueeze(x, a)", {"a": i(0, 3, 5)}),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_translated_is_refused(reason):
    reasons = refusals(parse(*REFUSED[reason]), ct.target.iOS17)
    assert len(reasons) == 1
    assert re.search(reason, reasons[0])


def test_a_free_size_is_refused_with_what_to_do():
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 23]>\n'
        "g (float[batch,4,height,8] x) => (float[batch,4,height,8] y) { y = Relu(x) }"
    )
    (reason,) = refusals(model, ct.target.iOS17)
    assert re.search("dimensions batch, height of 'x' are free .* one size each; fix it with --buckets", reason)


def test_the_first_of_equals_without_relying_on_the_operator(tmp_path):
    """The reference leaves open which of equals `reduce_argmax` takes; the interpreter takes the last."""
    case = ("int32[2,4] x", "int64[2] y", "y = ArgMax<axis=-1, keepdims=0>(x)", {})
    interpreter = as_package(parse(*case), tmp_path / "p.mlpackage", ct.target.iOS17)
    run = interpreter.run({"x": np.array([[0, 1, 1, 1], [2, 0, 2, 2]], np.int32)})
    assert run.outputs["y"].tolist() == [1, 0]
