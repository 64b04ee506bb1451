"""The rewrites before the Neural Engine's layout: text model in, op types out, equal numbers; and the layout itself."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from coreml_interpreter.package import Package
from onnx_ir.passes import common

from diffoundry.targets.coreml.build.token_layout import AttentionOnTokens, FlattenImages

pytestmark = pytest.mark.slow

HEADS = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2,5,24] q, float[2,7,24] k, float[2,7,24] v) => (float[2,5,24] y)
<int64[4] s = {2, -1, 3, 8}, int64[3] t = {2, 5, 24}>
{
    q4 = Reshape(q, s)
    q5 = Transpose<perm = [0, 2, 1, 3]>(q4)
    k4 = Reshape(k, s)
    k5 = Transpose<perm = [0, 2, 1, 3]>(k4)
    v4 = Reshape(v, s)
    v5 = Transpose<perm = [0, 2, 1, 3]>(v4)
    a = Attention<scale = 0.3>(q5, k5, v5)
    b = Transpose<perm = [0, 2, 1, 3]>(a)
    y = Reshape(b, t)
}
"""

IMAGES = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2,6,3,4] x) => (float[2,6,3,4] y)
<int64[3] s = {2, 12, 6}, int64[4] t = {2, 3, 4, 6}>
{
    a = Transpose<perm = [0, 2, 3, 1]>(x)
    b = Reshape(a, s)
    c = Tanh(b)
    d = Reshape(c, t)
    y = Transpose<perm = [0, 3, 1, 2]>(d)
}
"""


def run(model):
    feeds = {
        value.name: np.random.default_rng(7).standard_normal(value.shape.numpy()).astype(np.float32)
        for value in model.graph.inputs
    }
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)


def parse(text):
    model = ir.from_onnx_text(text)
    common.ShapeInferencePass(data_prop=True)(model)
    return model


def rewritten(text, pass_, *, modified=True):
    before, after = parse(text), parse(text)
    assert pass_(after).modified is modified
    np.testing.assert_allclose(run(after)[0], run(before)[0], rtol=1e-5, atol=1e-6)
    return [node.op_type for node in after.graph]


def test_attention_splits_and_joins_the_heads_itself():
    assert rewritten(HEADS, AttentionOnTokens()) == ["Attention"]


def test_images_are_flat_before_they_are_tokens():
    ops = rewritten(IMAGES, FlattenImages())
    assert ops == ["Reshape", "Transpose", "Tanh", "Transpose", "Reshape"]


NEGATED_HEADS = HEADS.replace("(q4)", "(q6)").replace("    q5 =", "    q6 = Neg(q4)\n    q5 =")
NEGATED_RESULT = HEADS.replace("y = Reshape(b, t)", "n = Neg(b)\n    y = Reshape(n, t)")
TURNED_IMAGES = IMAGES.replace("[0, 2, 3, 1]", "[0, 3, 2, 1]").replace("[0, 3, 1, 2]", "[0, 3, 2, 1]").replace(
    "{2, 3, 4, 6}", "{2, 4, 3, 6}"
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "pass_"),
    [
        (NEGATED_HEADS, AttentionOnTokens()),
        (NEGATED_RESULT, AttentionOnTokens()),
        (IMAGES, AttentionOnTokens()),
        (HEADS, FlattenImages()),
        (TURNED_IMAGES, FlattenImages()),
    ],
)
def test_other_graphs_are_left_alone(text, pass_):
    before = [node.op_type for node in parse(text).graph]
    assert rewritten(text, pass_, modified=False) == before


def heads_of(graph):
    """The heads of every attention of a portable graph."""
    return [node.inputs[0].shape[1] for node in ir.load(graph).graph if node.op_type == "Attention"]


@pytest.mark.slow_cases("swift")
@pytest.mark.parametrize("layout", ["diffusers", "swift"])
def test_transformer_blocks_stay_in_the_neural_engines_layout(lowered, bundle_of, layout):
    """No linear layer on tokens and no transpose is left but that of the keys, which the equation asks for."""
    heads = heads_of(bundle_of("sd2") / "unet/model.onnx")
    plain = lowered("sd2", "unet").operators()
    found = lowered("sd2", "unet", neural_engine=True, layout=layout).operators()
    assert found["einsum"] == 2 * sum(heads)
    assert found["softmax"] == sum(heads)
    assert found["transpose"] == len(heads) + (layout == "diffusers")
    assert plain["transpose"] == 5 * len(heads)
    assert found["linear"] == 13, "the timestep's, which are no tokens"
    assert found["conv"] == plain["conv"] + plain["linear"] - found["linear"]
    assert "matmul" not in found


def test_the_condition_enters_in_the_layout_that_it_has(lowered):
    """Swift's layout is the Neural Engine's: nothing is turned on the way in."""
    package = lowered("sd2", "unet", neural_engine=True, layout="swift").packages[0]
    (function,) = Package(package).functions.values()
    readers = {step.type for step in function.operations if step.arguments.get("x") is not None and isinstance(
        step.arguments["x"], str) and step.arguments["x"] == "encoder_hidden_states"}  # fmt: skip
    assert readers == {"conv"}
