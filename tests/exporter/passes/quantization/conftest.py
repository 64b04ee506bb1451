"""A small network to quantize, what its tensors hold, and ONNX Runtime to run what became of it."""

from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes.common import ShapeInferencePass

NETWORK = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 8, 6, 6] x, float[20, 8, 3, 3] conv_w, float[20] conv_b, float[20, 20, 1, 1] point_w, float[20] norm_w,
   float[20] norm_b, float[20, 24] to_q_w, float[20, 24] to_k_w, float[32, 24] gemm_w, float[32] gemm_b)
   => (float[36, 32] y)
<int64[3] tokens = {2, 20, 36}, int64[1] axis = {0}>
{
    [act] s = Sigmoid(x)
    [silu] a = Mul(x, s)
    [conv] c = Conv <pads = [1, 1, 1, 1]> (a, conv_w, conv_b)
    [point] p = Conv (c, point_w)
    [residual] r = Add(c, p)
    [flat] f = Reshape(r, tokens)
    [turn] u = Transpose <perm = [0, 2, 1]> (f)
    [norm] t = LayerNormalization (u, norm_w, norm_b)
    [to_q] q = MatMul(t, to_q_w)
    [to_k] k = MatMul(t, to_k_w)
    [qk] m = Add(q, k)
    [fold] d = ReduceMean <keepdims = 0> (m, axis)
    [gemm] y = Gemm <transB = 1> (d, gemm_w, gemm_b)
}
"""
"""A convolution behind SiLU, one that reads its output beside a residual, two linear layers that share the output of a
norm, and a Gemm whose weight lies the other way round."""

NODES = ("conv", "point", "to_q", "to_k", "gemm")


def _set_weight(model: ir.Model, value: ir.Value, array: np.ndarray) -> None:
    """Turn an input of the graph into an initializer."""
    model.graph.inputs.remove(value)
    value.const_value = ir.tensor(array, name=value.name)
    model.graph.register_initializer(value)


def _network() -> ir.Model:
    """The network with random weights, those of each output channel of another size."""
    model = ir.from_onnx_text(NETWORK)
    rng = np.random.default_rng(1)
    for value in tuple(model.graph.inputs)[1:]:
        shape = [int(size) for size in value.shape]
        sizes = 10.0 ** rng.uniform(-1, 0, shape[:1] + [1] * (len(shape) - 1))
        _set_weight(model, value, (rng.standard_normal(shape) * sizes).astype(np.float32))
    ShapeInferencePass(data_prop=True)(model)
    return model


def _feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(2).standard_normal((2, 8, 6, 6)).astype(np.float32) * 3}


def _run(model: ir.Model, feeds: dict[str, np.ndarray] | None = None) -> list[np.ndarray]:
    """Every output, by ONNX Runtime with its optimiser off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    text = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(text, options, providers=["CPUExecutionProvider"])
    return session.run(None, _feeds() if feeds is None else feeds)


def _tensors() -> dict[str, np.ndarray]:
    """Everything that the float network reads and computes."""
    model = _network()
    made = [value for node in model.graph for value in node.outputs if not value.is_graph_output()]
    model.graph.outputs.extend(made)
    return dict(zip([value.name for value in model.graph.outputs], _run(model), strict=True)) | _feeds()


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    """`network()`, `feeds()`, `run(model, feeds)`, `tensors`, `ranges`, `nodes`, `set_weight(model, value, array)`."""
    tensors = _tensors()
    return SimpleNamespace(
        network=_network,
        feeds=_feeds,
        run=_run,
        tensors=tensors,
        ranges={name: (float(array.min()), float(array.max())) for name, array in tensors.items()},
        nodes=NODES,
        set_weight=_set_weight,
    )
