"""Nodes that dequantize weights move to the front of the graph, and the numbers stay."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from diffoundry.targets.onnxruntime.build.fusions import DequantizeFirst
from tests.graph_transforms import parse

INTEGERS = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 3] x) => (float[2, 3] z)
<int8[3, 3] w1 = {1, 2, 3, 4, 5, 6, 7, 8, 9},
 int8[3, 3] w2 = {9, 8, 7, 6, 5, 4, 3, 2, 1}, float[3] s = {0.5, 0.25, 2.0}>
{
    a = DequantizeLinear <axis = 1> (w1, s)
    y = MatMul(x, a)
    b = DequantizeLinear <axis = 1> (w2, s)
    t = Transpose(b)
    z = MatMul(y, t)
}
"""

FLOATS = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 3] x) => (float[2, 3] z)
<float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}>
{
    y = Relu(x)
    t = Transpose(w)
    z = MatMul(y, t)
}
"""

ACTIVATIONS = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 3] x) => (float[2, 3] z)
<float s = {0.5}, uint8 o = {128}>
{
    y = Relu(x)
    q = QuantizeLinear(y, s, o)
    z = DequantizeLinear(q, s, o)
}
"""


def test_weights_come_first_with_what_changes_them(transform, ops, numbers):
    after = transform(INTEGERS, DequantizeFirst(), {"x": numbers(2, 3)})
    assert ops(after) == ["DequantizeLinear", "DequantizeLinear", "Transpose", "MatMul", "MatMul"]


def test_a_graph_in_this_order_stays(transform, numbers):
    after = transform(INTEGERS, DequantizeFirst(), {"x": numbers(2, 3)})
    assert not DequantizeFirst()(after).modified


def test_graphs_without_weights_in_integers_stay(transform, numbers):
    for text in (FLOATS, ACTIVATIONS):
        transform(text, DequantizeFirst(), {"x": np.abs(numbers(2, 3))}, modified=False)


def test_onnx_runtime_dequantizes_each_weight_where_it_is_read(tmp_path):
    kinds = [kind for kind in executed(tmp_path) if kind in ("Conv", "DequantizeLinear")]
    assert kinds == ["DequantizeLinear", "Conv"] * 3


def executed(folder: Path) -> list[str]:
    """The operators of three convolutions with weights in integers, in ONNX Runtime's order."""
    layers = "\n".join(
        f"d{i} = DequantizeLinear <axis = 0> (w{i}, s)\n y{i + 1} = Conv <pads = [1, 1, 1, 1]> (y{i}, d{i})"
        for i in range(3)
    )
    inputs = ", ".join(f"int8[4, 4, 3, 3] w{i}" for i in range(3))
    text = f"""
    <ir_version: 10, opset_import: ["": 23]>
    g (float[1, 4, 8, 8] y0, {inputs}, float[4] s) => (float[1, 4, 8, 8] y3)
    {{ {layers} }}
    """
    weights = {f"w{i}": np.full((4, 4, 3, 3), i, np.int8) for i in range(3)}
    model = parse(text, {**weights, "s": np.ones(4, np.float32)}, infer=False)
    assert DequantizeFirst()(model).modified
    settings = onnxruntime.SessionOptions()
    settings.enable_profiling, settings.profile_file_prefix = True, str(folder / "profile")
    graph = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
    session.run(None, {"y0": np.ones((1, 4, 8, 8), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]
