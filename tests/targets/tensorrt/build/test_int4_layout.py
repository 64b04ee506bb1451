"""Blocks of int4 convolution weights where TensorRT takes them, with the same numbers and the same bytes."""

from collections import Counter

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from diffoundry.targets.tensorrt.build.int4_layout import FlattenBlocks

TEXT = """
<ir_version: 11, opset_import: ["": 23]>
g (float[n, 64, 8, 8] x, int4[16, 64, 3, 3] w, float[16, 2, 3, 3] s) => (float[n, 16, 8, 8] y)
{ d = DequantizeLinear <axis = 1, block_size = 32> (w, s)  y = Conv <pads = [1, 1, 1, 1]> (x, d) }
"""


@pytest.fixture
def graph(tmp_path):
    model = ir.from_onnx_text(TEXT)
    generator = np.random.default_rng(0)
    given = {
        "w": generator.integers(-7, 8, (16, 64, 3, 3)).astype(ml_dtypes.int4),
        "s": generator.uniform(0.01, 0.1, (16, 2, 3, 3)).astype(np.float32),
    }
    while len(model.graph.inputs) > 1:
        value = model.graph.inputs.pop(1)
        value.const_value = ir.tensor(given[value.name], name=value.name)
        model.graph.register_initializer(value)
    ShapeInferencePass()(model)
    ir.save(model, tmp_path / "g.onnx", external_data="g.data", size_threshold_bytes=0)
    return tmp_path / "g.onnx"


def run(path):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.random.default_rng(1).standard_normal((2, 64, 8, 8)).astype(np.float32)})[0]


def test_the_axes_behind_the_blocks_become_one_and_the_numbers_stay(graph):
    expected = run(graph)
    model = ir.load(graph)
    assert FlattenBlocks()(model).modified
    assert Counter(node.op_type for node in model.graph) == {"DequantizeLinear": 1, "Reshape": 1, "Conv": 1}
    node = next(node for node in model.graph if node.op_type == "DequantizeLinear")
    assert [tuple(value.shape) for value in node.inputs] == [(16, 64, 9), (16, 2, 9)]
    written = graph.with_name("flat.onnx")
    ir.save(model, written)
    onnx.checker.check_model(str(written), full_check=True)
    np.testing.assert_array_equal(run(written), expected)
    assert not FlattenBlocks()(model).modified


def test_weights_stay_in_their_file(graph):
    model = ir.load(graph)
    FlattenBlocks()(model)
    node = next(node for node in model.graph if node.op_type == "DequantizeLinear")
    tensors = [value.const_value for value in node.inputs]
    assert [type(tensor) for tensor in tensors] == [ir.ExternalTensor] * 2
    assert {tensor.location for tensor in tensors} == {"g.data"}
    assert tensors[0].length == 16 * 64 * 9 // 2


@pytest.mark.parametrize(
    "text",
    [
        """<ir_version: 11, opset_import: ["": 23]>
        g (float[n, 64] x, int4[64, 16] w, float[2, 16] s) => (float[n, 16] y)
        { d = DequantizeLinear <axis = 0, block_size = 32> (w, s)  y = MatMul (x, d) }""",
        """<ir_version: 11, opset_import: ["": 23]>
        g (float[n, 64, 8, 8] x, int8[16, 64, 3, 3] w, float[16] s) => (float[n, 16, 6, 6] y)
        { d = DequantizeLinear <axis = 0> (w, s)  y = Conv (x, d) }""",
    ],
    ids=["matrix", "no blocks"],
)  # fmt: skip
def test_other_weights_stay(text):
    model = ir.from_onnx_text(text)
    for value in model.graph.inputs[1:]:
        shape, dtype = value.shape.numpy(), value.dtype.numpy()
        value.const_value = ir.tensor(np.ones(shape).astype(dtype), name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    assert not FlattenBlocks()(model).modified
