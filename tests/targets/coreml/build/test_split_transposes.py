"""Transpositions of six axes: equal numbers, at most five axes, and the graphs that stay as they are."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from diffoundry.targets.coreml.build.split_transposes import SplitTransposes

TEXT = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 12, 40] x) => (float[2, 5, 6, 16] y)
<int64[6] a = {{2, 3, 4, 2, 4, 5}}, int64[4] b = {{2, 5, 6, 16}}, float[2, 3, 4, 2, 4, 5] r, float[2, 5, 3, 2, 4, 4] e>
{{
  r = Reshape (x, a)
  e = {operator} (r)
  y = Reshape (e, b)
}}
"""

EINSUM = 'Einsum <equation = "nhwpqc->nchpwq">'
TRANSPOSE = "Transpose <perm = [0, 5, 1, 3, 2, 4]>"


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


@pytest.mark.parametrize("operator", [EINSUM, TRANSPOSE])
def test_the_numbers_stay_and_no_value_has_six_axes(operator):
    model = ir.from_onnx_text(TEXT.format(operator=operator))
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 12, 40)).astype(np.float32)}
    before = run(model, feeds)[0]
    assert SplitTransposes()(model).modified
    assert [node.op_type for node in model.graph] == ["Reshape", "Transpose"] * 2 + ["Reshape"]
    assert max(len(value.shape) for node in model.graph for value in node.outputs) == 4
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_array_equal(run(model, feeds)[0], before)


@pytest.mark.parametrize("operator", ["Relu", 'Einsum <equation = "nhwpqc->nchpw">', "Identity"])
def test_what_is_no_transposition_stays(operator):
    assert not SplitTransposes()(ir.from_onnx_text(TEXT.format(operator=operator))).modified


def test_five_axes_stay():
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[2, 3, 4, 5, 6] x) => (float[6, 5, 4, 3, 2] y) { y = Transpose <perm = [4, 3, 2, 1, 0]> (x) }
    """
    assert not SplitTransposes()(ir.from_onnx_text(text)).modified
