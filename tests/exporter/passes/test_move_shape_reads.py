"""Sizes of idle inputs that are read of the latents instead: same numbers, and nothing else is moved."""

import onnx_ir as ir

from diffoundry.exporter.passes.move_shape_reads import MoveShapeReads

RESIDUAL = "down_block_additional_residual_0"
TEXT = f"""
<ir_version: 10, opset_import: ["": 23]>
g (
  float[batch, 4, "height/8", "width/8"] sample, float[batch, 9, "height/8", "width/8"] {RESIDUAL},
  float[batch, 9, "height/16", "width/16"] mid_block_additional_residual
) => (int64[1] a, int64[2] b, int64[4] c, int64[1] d)
{{
  a = Shape <start = 0, end = 1> ({RESIDUAL})
  b = Shape <start = 2> ({RESIDUAL})
  c = Shape ({RESIDUAL})
  d = Shape <start = 2, end = 3> (mid_block_additional_residual)
}}
"""


def test_sizes_are_read_of_the_input_that_every_call_has():
    model = ir.from_onnx_text(TEXT)
    assert MoveShapeReads()(model).modified
    read = {node.outputs[0].name: node.inputs[0].name for node in model.graph}
    assert read == {"a": "sample", "b": "sample", "c": RESIDUAL, "d": "mid_block_additional_residual"}
    assert not MoveShapeReads()(model).modified
