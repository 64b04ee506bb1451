"""Graphs opened for adapters: the same numbers without one, W + up down with one, in every operator and form."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from diffoundry.targets.adapter_graph import TakeAdapters, layers_of

LINEAR = """
<ir_version: 10, opset_import: ["": 23]>
g (float[n, t, 6] x, float[6, 4] w, float[4] b) => (float[n, t, 4] y) { m = MatMul (x, w) y = Add (m, b) }
"""
GEMM = """
<ir_version: 10, opset_import: ["": 23]>
g (float[n, 6] x, float[4, 6] w, float[4] b) => (float[n, 4] y) { y = Gemm <transB = 1> (x, w, b) }
"""
CONV = """
<ir_version: 10, opset_import: ["": 23]>
g (float[n, 6, h, v] x, float[4, 6, 3, 3] w, float[4] b) => (float[n, 4, p, q] y)
{ y = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x, w, b) }
"""
INT8 = """
<ir_version: 10, opset_import: ["": 23]>
g (float[n, t, 6] x, int8[6, 4] w, float[4] s) => (float[n, t, 4] y)
{ f = DequantizeLinear <axis = 1> (w, s) y = MatMul (x, f) }
"""
HALF = """
<ir_version: 10, opset_import: ["": 23]>
g (float16[n, t, 6] x, float16[6, 4] w) => (float16[n, t, 4] y) { y = MatMul (x, w) }
"""
TWICE = """
<ir_version: 10, opset_import: ["": 23]>
g (float[n, t, 6] x, float[6, 4] w) => (float[n, t, 4] y)
{ d = Add (x, x) m = MatMul (x, w) o = MatMul (d, w) y = Sub (o, m) }
"""
OTHERS = """
<ir_version: 10, opset_import: ["": 23]>
g (float[n, t, 6] x, float[6, 4] w, float[6, 4] v) => (float[n, t, 4] y)
{ m = MatMul (x, w) o = MatMul (x, v) y = Sub (o, m) }
"""
TABLE = """
<ir_version: 10, opset_import: ["": 23]>
g (int32[n, t] x, float[5, 3] w) => (float[n, t, 3] y) { y = Gather <axis = 0> (w, x) }
"""
GROUPS = """
<ir_version: 10, opset_import: ["": 23]>
g (float[n, 6, h, v] x, float[6, 1, 1, 1] w) => (float[n, 6, h, v] y) { y = Conv <group = 6> (x, w) }
"""

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    LINEAR: {"w": RANDOM.standard_normal((6, 4)).astype("f"), "b": RANDOM.standard_normal(4).astype("f")},
    GEMM: {"w": RANDOM.standard_normal((4, 6)).astype("f"), "b": RANDOM.standard_normal(4).astype("f")},
    CONV: {"w": RANDOM.standard_normal((4, 6, 3, 3)).astype("f"), "b": RANDOM.standard_normal(4).astype("f")},
    INT8: {"w": RANDOM.integers(-127, 127, (6, 4), np.int8), "s": np.full(4, 0.01, "f")},
    HALF: {"w": RANDOM.standard_normal((6, 4)).astype(np.float16)},
    TWICE: {"w": RANDOM.standard_normal((6, 4)).astype("f")},
    OTHERS: dict.fromkeys("wv", np.ones((6, 4), "f")),
    TABLE: {"w": RANDOM.standard_normal((5, 3)).astype("f")},
    GROUPS: {"w": np.ones((6, 1, 1, 1), "f")},
}
X = {"x": RANDOM.standard_normal((2, 5, 6)).astype("f")}
IMAGE = {"x": RANDOM.standard_normal((2, 6, 7, 8)).astype("f")}
FEEDS = {LINEAR: X, GEMM: {"x": X["x"][0]}, CONV: IMAGE, INT8: X, HALF: {"x": X["x"].astype(np.float16)}, TWICE: X}


def graph_of(text, changed=None):
    """The graph, whose last node with a weight is of the module "layer" or "token_embedding"."""
    model = ir.from_onnx_text(text)
    for name, array in {**WEIGHTS[text], **(changed or {})}.items():
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    for node in model.graph:
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            node.metadata_props["diffoundry.module"] = "layer"
        if node.op_type == "Gather":
            node.metadata_props["diffoundry.module"] = "embeddings.token_embedding"
    return model


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    text = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(text, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


@pytest.mark.parametrize("text", FEEDS, ids=["MatMul", "Gemm", "Conv", "int8", "fp16", "twice"])
def test_a_branch_is_the_change_of_the_weight(text):
    before = run(graph_of(text), FEEDS[text])
    model = graph_of(text)
    shape = layers_of(model.graph).layers["layer"]
    assert shape == ((4, 6, 3, 3) if text == CONV else (4, 6))
    result = TakeAdapters()(model)
    assert result.modified
    assert model.graph.outputs[0].name == "y"
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    down = RANDOM.standard_normal((2, *shape[1:])).astype("f")
    up = RANDOM.standard_normal((4, 2, *(1 for _ in shape[2:]))).astype("f")
    turn = (lambda a: np.ascontiguousarray(a.T)) if len(shape) == 2 else (lambda a: a)
    zeros = {"layer.lora_A": turn(down * 0), "layer.lora_B": turn(up * 0)}
    np.testing.assert_array_equal(run(model, {**FEEDS[text], **zeros}), before)
    change = np.tensordot(up.reshape(4, 2), down, 1)
    if text == INT8:
        expected = before + FEEDS[text]["x"] @ change.T
    else:
        weight = WEIGHTS[text]["w"]
        new = weight.T + change if text in (LINEAR, HALF, TWICE) else weight + change
        new = new.T if text in (LINEAR, HALF, TWICE) else new
        expected = run(graph_of(text, {"w": new.astype(weight.dtype)}), FEEDS[text])
    got = run(model, {**FEEDS[text], "layer.lora_A": turn(down), "layer.lora_B": turn(up)})
    np.testing.assert_allclose(got, expected, atol=3e-2 if text == HALF else 2e-5)


def test_rows_behind_a_table():
    model = graph_of(TABLE)
    spec = layers_of(model.graph)
    assert (spec.table, spec.vocabulary, spec.width) == ("embeddings.token_embedding", 5, 3)
    TakeAdapters()(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    rows = RANDOM.standard_normal((2, 3)).astype("f")
    tokens = np.array([[0, 4, 5], [6, 1, 0]], np.int32)
    got = run(model, {"x": tokens, "embeddings.token_embedding.rows": rows})
    np.testing.assert_array_equal(got, np.concatenate([WEIGHTS[TABLE]["w"], rows])[tokens])


def test_what_is_no_layer_stays():
    for text in (GROUPS, OTHERS):
        model = graph_of(text)
        assert not layers_of(model.graph).layers
        assert not TakeAdapters()(model).modified
    unnamed = graph_of(LINEAR)
    for node in unnamed.graph:
        node.metadata_props.clear()
    assert not TakeAdapters()(unnamed).modified
