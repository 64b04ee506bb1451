"""Small graphs for TensorRT: one block of a UNet, and any graph in the form that the target asks for."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from diffoundry.exporter.passes.half_precision import HalfPrecision
from diffoundry.exporter.passes.quantizable import quantizable
from diffoundry.exporter.passes.quantize import Quantize

_BLOCK = """
<ir_version: 10, opset_import: ["": 23]>
block (
  float[batch, 4, "height/8", "width/8"] sample,
  float[32, 4, 3, 3] conv_in_weight, float[32] conv_in_bias, float[32] norm_weight, float[32] norm_bias,
  float[32, 32, 3, 3] conv_mid_weight, float[32] conv_mid_bias,
  float[32, 32] to_q_weight, float[32, 32] to_k_weight, float[32, 32] to_v_weight, float[32, 32] to_out_weight,
  float[4, 32, 3, 3] conv_out_weight, float[4] conv_out_bias
) => (float[batch, 4, "height/8", "width/8"] out_sample)
<int64[3] to_tokens = {0, 32, -1}, int64[4] to_heads = {0, 0, 2, 16}, int64[3] from_heads = {0, 0, 32}>
{
  c = Conv <pads = [1, 1, 1, 1]> (sample, conv_in_weight, conv_in_bias)
  n = GroupNormalization <num_groups = 8, epsilon = 0.00001> (c, norm_weight, norm_bias)
  s = Sigmoid (n)
  a = Mul (n, s)
  m = Conv <pads = [1, 1, 1, 1]> (a, conv_mid_weight, conv_mid_bias)
  f = Reshape (m, to_tokens)
  t = Transpose <perm = [0, 2, 1]> (f)
  q = MatMul (t, to_q_weight)   k = MatMul (t, to_k_weight)   v = MatMul (t, to_v_weight)
  q4 = Reshape (q, to_heads)    k4 = Reshape (k, to_heads)    v4 = Reshape (v, to_heads)
  qh = Transpose <perm = [0, 2, 1, 3]> (q4)
  kh = Transpose <perm = [0, 2, 1, 3]> (k4)
  vh = Transpose <perm = [0, 2, 1, 3]> (v4)
  y = Attention <scale = 0.25> (qh, kh, vh)
  yt = Transpose <perm = [0, 2, 1, 3]> (y)
  yf = Reshape (yt, from_heads)
  o = MatMul (yf, to_out_weight)
  ot = Transpose <perm = [0, 2, 1]> (o)
  ms = Shape (m)
  r = Reshape (ot, ms)
  h = Add (m, r)
  out_sample = Conv <pads = [1, 1, 1, 1]> (h, conv_out_weight, conv_out_bias)
}
"""

_FLOATS = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def make_block():
    """One block of a UNet: convolutions, group norm with SiLU, attention of two heads of 16 channels."""
    model = ir.from_onnx_text(_BLOCK)
    generator = np.random.default_rng(0)
    while len(model.graph.inputs) > 1:
        value = model.graph.inputs.pop(1)
        shape = value.shape.numpy()
        array = generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) + (value.name == "norm_weight")
        value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
        value.metadata_props["diffoundry.weight"] = value.name
        model.graph.register_initializer(value)
    for number, node in enumerate(model.graph):
        node.name = f"block/{node.op_type}_{number}"
    ShapeInferencePass()(model)
    return model


def in_form(model, form, block=32):
    """A portable graph in the form that the target asks for; every activation is taken to lie between -3 and 3."""
    if form.quantized:
        sites = [s for s in quantizable(model.graph) if form.activations is None or s.activation is not None]
        if form.weights == "int4":
            sites = [s for s in sites if s.weight_value.const_value.shape[s.input_axis] % block == 0]
        names = {s.activation_value.name for s in sites if s.activation is not None}
        model = Quantize(
            nodes=frozenset(s.name for s in sites),
            weights=form.weights,
            activations=form.activations,
            ranges=dict.fromkeys(names, (-3.0, 3.0)) if form.activations else {},
            block=block,
            floats=_FLOATS[form.floats],
        )(model).model
    return model if form.floats == "fp32" else HalfPrecision(dtype=_FLOATS[form.floats])(model).model
