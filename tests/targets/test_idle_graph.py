"""Graphs without idle inputs: the numbers of a graph that is fed zeros, on both CPU engines."""

from functools import partial

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from diffoundry.targets.idle_graph import drop_idle_inputs
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.run.idle_inputs import cut_idle_inputs, read_without

RESIDUAL, FEATURE = "mid_block_additional_residual", "down_intrablock_additional_residual_0"
MAP = 'float[batch, 3, "height/8", "width/8"]'

SUMS = f"""
<ir_version: 10, opset_import: ["": 23]>
g ({MAP} sample, {MAP} {RESIDUAL}, {MAP} {FEATURE}, float[3, 3, 1, 1] w) => ({MAP} y)
{{
  size = Shape ({RESIDUAL})  a = Conv (sample, w)  b = Add ({RESIDUAL}, a)  s = Sigmoid (b)  c = Add (s, {FEATURE})
  d = Reshape (c, size)  y = Mul (d, a)
}}
"""
TOKENS = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, 6, 3] hidden_states, float[batch, 2, 3, 3] block_controlnet_hidden_states_0) => (float[batch, 6, 3] y)
<int64[3] flat = {0, 6, 3}>
{
  t = Reshape (block_controlnet_hidden_states_0, flat)
  a = Sigmoid (hidden_states)  b = Add (a, t)  c = Tanh (b)  d = Add (t, c)  y = Neg (d)
}
"""
PROMPTS = """
<ir_version: 10, opset_import: ["": 23]>
g (
  float[batch, 6, 3] sample, float[batch, images, 3] image_prompt_embeds_0, float[batch, 2, images] image_prompt_scale_0
) => (float[batch, 6, 3] y)
<int64[1] start = {1}, int64[1] end = {2}, int64[1] axis = {1}>
{
  a = Sigmoid (sample)
  s = Slice (image_prompt_scale_0, start, end, axis)
  p = MatMul (s, image_prompt_embeds_0)
  b = Add (a, p)  y = Neg (b)
}
"""
REFUSED = [
    f"g ({MAP} sample, {MAP} {RESIDUAL}) => ({MAP} y) {{ a = Sigmoid ({RESIDUAL})  y = Add (sample, a) }}",
    f"g (float[3, 1, 1] sample, {MAP} {RESIDUAL}) => ({MAP} y) {{ a = Add (sample, {RESIDUAL})  y = Neg (a) }}",
    f"g ({MAP} sample, {MAP} {RESIDUAL}) => ({MAP} y) {{ y = Add (sample, {RESIDUAL}) }}",
    f"g ({MAP} sample, {MAP} {RESIDUAL}) => ({MAP} y, {MAP} z) {{ y = Neg (sample)  z = Mul (sample, {RESIDUAL}) }}",
    f"g ({MAP} sample, {MAP} {RESIDUAL}) => ({MAP} y) {{ a = Sub ({RESIDUAL}, sample)  y = Neg (a) }}",
]


def graph_of(text):
    model = ir.from_onnx_text(text)
    for value in [value for value in model.graph.inputs if value.name == "w"]:
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(np.random.default_rng(0).standard_normal((3, 3, 1, 1)).astype("f"), name="w")
        model.graph.register_initializer(value)
    return ShapeInferencePass()(model).model


def session(model):
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])


def read_openvino(model):
    return ov.Core().read_model(ir.to_proto(model).SerializeToString(), b"")


def feeds_of(model):
    sizes = {"batch": 2, "images": 2, "height/8": 5, "width/8": 4}
    noise = np.random.default_rng(1)
    shapes = {
        value.name: [side if isinstance(side, int) else sizes[str(side)] for side in value.shape]
        for value in model.graph.inputs
    }
    return {name: noise.standard_normal(shape).astype("f") for name, shape in shapes.items()}


@pytest.mark.parametrize("text", [SUMS, TOKENS, PROMPTS], ids=["sums", "tokens", "prompts"])
def test_numbers_are_those_of_zeros(text):
    whole, cut = graph_of(text), graph_of(text)
    names = drop_idle_inputs(cut)
    assert names == tuple(value.name for value in whole.graph.inputs)[1:]
    feeds = feeds_of(whole)
    own = next(iter(feeds))
    feeds |= {name: np.zeros_like(array) for name, array in feeds.items() if name in names and "embeds" not in name}
    for values in (feeds[own], np.full_like(feeds[own], -0.0)):  # x + 0 is x, but for -0, which becomes the equal 0
        wanted = session(whole).run(None, {**feeds, own: values})[0]
        np.testing.assert_array_equal(session(cut).run(None, {own: values})[0], wanted)
        model = read_openvino(whole)
        assert cut_idle_inputs(model, names)
        (got,) = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([values]).values()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("body", REFUSED, ids=["function", "spread", "output", "product", "negative"])
def test_inputs_that_are_read_in_another_way_are_kept(body):
    text = f'<ir_version: 10, opset_import: ["": 23]> {body}'
    assert drop_idle_inputs(graph_of(text)) == ()
    if "Sub" not in body and "y = Add" not in body:  # OpenVINO has other operators and outputs
        with pytest.raises(RuntimeError, match=f"its inputs {RESIDUAL} ... cannot be left out, as the manifest says"):
            read_without(partial(read_openvino, graph_of(text)), (RESIDUAL,))


def test_parts_leave_image_prompts_to_others():
    assert drop_idle_inputs(graph_of(PROMPTS), part=True) == ()
