"""Five tiny graphs for every engine, and what the reference implementation of ONNX computes for them."""

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import ShapeInferencePass

from diffoundry.exporter.steps.graph_files import save_graph

LINEAR = """
<ir_version: 10, opset_import: ["": 23]>
linear (float[batch, 6] x, float[6, 4] w, float[4] b) => (float[batch, 4] y)
{ m = MatMul (x, w) y = Add (m, b) }
"""

IMAGE = """
<ir_version: 10, opset_import: ["": 23]>
image (
  float[batch, 4, "height/8", "width/8"] sample,
  float[8, 4, 3, 3] w, float[8] b, float[8] scale, float[8] shift, float[4, 8, 1, 1] v, float[4] c
) => (float[batch, 4, "height/8", "width/8"] out_sample)
<
  float[batch, 8, "height/8", "width/8"] a, float[batch, 8, "height/8", "width/8"] n,
  float[batch, 8, "height/8", "width/8"] s, float[batch, 8, "height/8", "width/8"] m
>
{
  a = Conv <pads = [1, 1, 1, 1]> (sample, w, b)
  n = GroupNormalization <num_groups = 2, epsilon = 0.00001> (a, scale, shift)
  s = Sigmoid (n)
  m = Mul (n, s)
  out_sample = Conv (m, v, c)
}
"""

ATTENTION = """
<ir_version: 10, opset_import: ["": 23]>
attention (float[batch, 5, 16] x, float[16, 16] q, float[16, 16] k, float[16, 16] v) => (float[batch, 5, 16] y)
<int64[4] to_heads = {0, 0, 2, 8}, int64[3] from_heads = {0, 0, 16}>
{
  xq = MatMul (x, q)  xk = MatMul (x, k)  xv = MatMul (x, v)
  q4 = Reshape (xq, to_heads)  k4 = Reshape (xk, to_heads)  v4 = Reshape (xv, to_heads)
  qh = Transpose <perm = [0, 2, 1, 3]> (q4)
  kh = Transpose <perm = [0, 2, 1, 3]> (k4)
  vh = Transpose <perm = [0, 2, 1, 3]> (v4)
  h = Attention <scale = 0.25> (qh, kh, vh)
  t = Transpose <perm = [0, 2, 1, 3]> (h)
  y = Reshape (t, from_heads)
}
"""

TOKENS = """
<ir_version: 10, opset_import: ["": 23]>
tokens (int32[batch, sequence] input_ids, float[9, 3] table) => (float[batch, sequence, 3] y)
{ y = Gather <axis = 0> (table, input_ids) }
"""

SEVERAL = """
<ir_version: 10, opset_import: ["": 23]>
several (float[batch, 3] sample, float[1] timestep, float[3] w) => (float[batch, 3] product, float[batch, 3] sum)
{ product = Mul (sample, timestep) scaled = Mul (sample, w) sum = Add (scaled, timestep) }
"""

GRAPHS = {"linear": LINEAR, "image": IMAGE, "attention": ATTENTION, "tokens": TOKENS, "several": SEVERAL}

LAYERS = {"linear": ("to_q", "MatMul"), "tokens": ("text_model.token_embedding", "Gather")}
"""Graph to the name of the torch module behind one of its nodes, as the exporter leaves it there for adapters."""

_WEIGHTS = {"w", "b", "scale", "shift", "v", "c", "q", "k", "table"}


def make_graph(name, batch=None):
    """Build a graph with seeded weights, shapes inferred.

    Args:
        name: Of `GRAPHS`.
        batch: A fixed number of rows, or None to leave it free.
    """
    text = GRAPHS[name] if batch is None else GRAPHS[name].replace("batch,", f"{batch},")
    model = ir.from_onnx_text(text)
    weights = [value for value in model.graph.inputs if value.name in _WEIGHTS]
    generator = np.random.default_rng(len(name))
    for value in weights:
        model.graph.inputs.remove(value)
        array = generator.standard_normal(value.shape.numpy()).astype(np.float32)
        value.const_value = ir.tensor(array, name=value.name)
        value.metadata_props["diffoundry.weight"] = value.name
        model.graph.register_initializer(value)
    module, operator = LAYERS.get(name, ("", ""))
    for number, node in enumerate(model.graph):
        node.name = f"{name}/{node.op_type}_{number}"
        if node.op_type == operator:
            node.metadata_props["diffoundry.module"] = module
    ShapeInferencePass()(model)
    return model


def write_graph(name, bundle, component, batch=None):
    """Write a graph where an export would: `<bundle>/<component>/model.onnx`."""
    folder = bundle / component
    folder.mkdir(parents=True)
    save_graph(make_graph(name, batch), folder, "model.onnx")
    return folder / "model.onnx"


def expected(name, feeds, weights=None):
    """Compute the outputs with the reference implementation of ONNX.

    Args:
        name: Of `GRAPHS`.
        feeds: Input to array.
        weights: Initializers to replace.
    """
    model = make_graph(name)
    for key, array in (weights or {}).items():
        model.graph.initializers[key].const_value = ir.tensor(array, name=key)
    evaluator = ReferenceEvaluator(ir.to_proto(model))
    return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))


def weight(name, key):
    """Return an initializer of a graph as an array."""
    return make_graph(name).graph.initializers[key].const_value.numpy()
