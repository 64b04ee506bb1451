"""Writing attention out: operators, equal numbers, and where it must stay."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from diffoundry.targets.tensorrt.build.write_out_attention import WriteOutAttention

TEXT = """
<ir_version: 10, opset_import: ["": 23]>
g (float[b, 2, n, 16] q, float[b, 2, m, 16] k, float[b, 2, m, 16] v) => (float[b, 2, n, 16] y)
{ y = Attention ATTRIBUTES (q, k, v) }
"""


def model_of(attributes="<scale = 0.3>", text=TEXT):
    model = ir.from_onnx_text(text.replace("ATTRIBUTES", attributes))
    for node in model.graph:
        node.name = "attn1/Attention"
    ShapeInferencePass()(model)
    return model


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def operators(model):
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("attributes", ["<scale = 0.3>", ""])
def test_the_numbers_stay(attributes):
    model = model_of(attributes)
    generator = np.random.default_rng(0)
    feeds = {
        name: generator.standard_normal((2, 2, tokens, 16)).astype(np.float32)
        for name, tokens in (("q", 5), ("k", 7), ("v", 7))
    }
    expected = run(model, feeds)
    assert WriteOutAttention()(model).modified
    assert operators(model) == {"Mul": 1, "Transpose": 1, "MatMul": 2, "Softmax": 1}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_allclose(run(model, feeds), expected, rtol=0, atol=1e-6)
    assert not WriteOutAttention()(model).modified


def test_nodes_are_called_after_the_attention_and_scales_are_shared(portable):
    model = ir.load(portable("unet"))
    names = [node.name for node in model.graph if node.op_type == "Attention"]
    WriteOutAttention()(model)
    softmaxes = [node.name for node in model.graph if node.op_type == "Softmax"]
    assert [name.rpartition("/")[0] for name in softmaxes] == names
    assert operators(model)["Attention"] == 0
    assert len([name for name in model.graph.initializers if name.startswith("scale_")]) == 2


@pytest.mark.parametrize(
    "model",
    [
        model_of("<is_causal = 1>"),
        model_of("<softcap = 5.0>"),
        model_of(
            text="""<ir_version: 10, opset_import: ["": 23]>
            g (float[b, 2, n, 16] q, float[b, 2, m, 16] k, float[b, 2, m, 16] v, float[n, m] mask)
            => (float[b, 2, n, 16] y) { y = Attention (q, k, v, mask) }"""
        ),
        model_of(
            text="""<ir_version: 10, opset_import: ["": 23]>
            g (float[b, n, 32] q, float[b, n, 32] k, float[b, n, 32] v) => (float[b, n, 32] y)
            { y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v) }"""
        ),
        model_of(
            text="""<ir_version: 10, opset_import: ["": 23]>
            g (float[b, 4, n, 16] q, float[b, 2, n, 16] k, float[b, 2, n, 16] v) => (float[b, 4, n, 16] y)
            { y = Attention (q, k, v) }"""
        ),
    ],
    ids=["causal", "softcap", "mask", "joined heads", "grouped heads"],
)  # fmt: skip
def test_an_attention_that_is_more_than_that_stays(model):
    assert not WriteOutAttention()(model).modified
    assert operators(model) == {"Attention": 1}


def test_half_precision_scales_are_of_its_type():
    text = TEXT.replace("float[", "float16[")
    model = model_of(text=text)
    WriteOutAttention()(model)
    (scale,) = model.graph.initializers.values()
    assert scale.dtype == ir.DataType.FLOAT16
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
