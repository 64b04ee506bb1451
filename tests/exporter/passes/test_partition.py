"""The partition of a graph by what each node depends on."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from diffoundry.exporter.passes.free_times import free_times
from diffoundry.exporter.passes.graph_parts import GraphPart
from diffoundry.exporter.passes.half_precision import HalfPrecision
from diffoundry.exporter.passes.partition import partition

TEXT = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, tokens, 8] hidden_states, float[1] timestep, float[batch, words, 8] encoder_hidden_states,
   float[batch, 8] pooled) => (float[batch, tokens, 8] out)
<float[8, 8] key = {{{key}}}, float[1, 8] time = {{{time}}}, float[8, 8] pool = {{{key}}}, float one = {{1.0}},
 int64[1] last = {{-1}}, int64[1] middle = {{1}}>
{{
    size = Shape <start = 0, end = 1> (encoder_hidden_states)
    times = Expand (timestep, size)
    column = Unsqueeze (times, last)
    embedded = MatMul (column, time)
    vector = MatMul (pooled, pool)
    shift = Add (embedded, vector)
    active = Sigmoid (shift)
    scale = Add (active, one)
    row = Unsqueeze (scale, middle)
    keys = MatMul (encoder_hidden_states, key)
    turned = Transpose <perm = [0, 2, 1]> (keys)
    scores = MatMul (hidden_states, turned)
    mixed = MatMul (scores, keys)
    shifted = Mul (mixed, row)
    timed = Mul (keys, row)
    far = ReduceSum <keepdims = 1> (timed, middle)
    out = Add (shifted, far)
}}
"""


@pytest.fixture
def model(numbers):
    text = [", ".join(map(str, numbers(*shape).ravel())) for shape in ((8, 8), (1, 8))]
    return _typed(ir.from_onnx_text(TEXT.format(key=text[0], time=text[1])))


@pytest.fixture
def feeds(numbers):
    shapes = {"hidden_states": (2, 5, 8), "timestep": (1,), "encoder_hidden_states": (2, 3, 8), "pooled": (2, 8)}
    return {name: numbers(*shape) for name, shape in shapes.items()}


def _typed(model):
    """The shapes that the tracer records."""
    import onnx

    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))


def _run(model, feeds):
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    values = session.run(None, {one.name: feeds[one.name] for one in session.get_inputs()})
    return dict(zip([one.name for one in session.get_outputs()], values, strict=True))


def _names(values):
    return [value.name for value in values]


def _run_parts(parts, feeds):
    values = dict(feeds)
    for part in parts:
        values |= _run(part.model, values)
    return values


def test_each_node_goes_where_its_inputs_allow(model, feeds):
    conditioning, prelude, step = partition(model)
    assert [part.name for part in (conditioning, prelude, step)] == ["conditioning", "prelude", "step"]
    assert set(_names(conditioning.model.graph.outputs)) == {"keys", "vector"}
    assert set(_names(conditioning.model.graph.inputs)) == {"encoder_hidden_states", "pooled"}
    # `1 + scale` and the layout run where they are read; the sum over words is no row, so it stays in the step
    assert _names(prelude.model.graph.outputs) == ["active"]
    assert set(_names(prelude.model.graph.inputs)) == {"timestep", "encoder_hidden_states", "vector"}
    assert prelude.shape_inputs == ("encoder_hidden_states",)
    assert set(_names(step.model.graph.inputs)) == {"hidden_states", "keys", "active"}
    assert np.array_equal(_run_parts((conditioning, prelude, step), feeds)["out"], _run(model, feeds)["out"])
    assert {part.name: part.weight_bytes for part in (conditioning, prelude)} == {"conditioning": 512, "prelude": 40}


def test_halves_are_handed_over_as_float32(model, feeds):
    HalfPrecision(dtype=ir.DataType.FLOAT16)(model)
    parts = partition(model)
    assert len(parts) == 3
    types = {value.dtype for part in parts for value in (*part.model.graph.inputs, *part.model.graph.outputs)}
    assert types == {ir.DataType.FLOAT}
    assert np.array_equal(_run_parts(parts, feeds)["out"], _run(model, feeds)["out"])


def test_a_graph_of_the_latents_alone_stays_whole():
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[batch, 4] sample, float[1] timestep) => (float[batch, 4] out)
    {
        times = Neg (timestep)
        out = Mul (sample, times)
    }
    """
    assert partition(_typed(ir.from_onnx_text(text))) == ()


def test_a_network_without_latents_stays_whole():
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[2, 4] timestep, float[4, 2] pooled) => (float[2, 2] out)
    {
        out = MatMul (timestep, pooled)
    }
    """
    assert partition(_typed(ir.from_onnx_text(text))) == ()


def test_an_unread_input_stays_an_input():
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[2, 4] sample, float[2, 4] text, float[1] unread) => (float[2, 4] out)
    {
        both = Softmax (text)
        out = Add (sample, both)
    }
    """
    parts = partition(_typed(ir.from_onnx_text(text)))
    assert _names(parts[-1].model.graph.inputs) == ["sample", "unread", "both"]


def _prelude(rows, sizes):
    """A prelude that expands its timestep to a size, of the batch or another."""
    text = f"""
    <ir_version: 10, opset_import: ["": 23]>
    g (float[1] timestep, float[batch, 4] pooled) => (float[{rows}, 4] out)
    <int64[1] first = {{0}}, int64[1] last = {{1}}, int64[2] column = {{-1, 1}}, int64[1] three = {{3}}>
    {{
        shape = Shape (pooled)
        rows = Slice (shape, first, last)
        times = Expand (timestep, {sizes})
        waves = Sin (times)
        tall = Reshape (waves, column)
        out = Add (tall, pooled)
    }}
    """
    return GraphPart(name="prelude", model=_typed(ir.from_onnx_text(text)), shape_inputs=())


@pytest.mark.parametrize(("rows", "sizes", "frees"), [("batch", "rows", True), (3, "three", False)])
def test_a_prelude_takes_many_timesteps_where_its_rows_are_those_of_the_batch(rows, sizes, frees):
    part = _prelude(rows, sizes)
    assert free_times(part) is frees
    time, _ = part.model.graph.inputs
    assert (tuple(time.shape) == ("timesteps",)) is frees
    if frees:
        rng = np.random.default_rng(0)
        feeds = {"timestep": rng.random(6, np.float32), "pooled": rng.random((6, 4), np.float32)}
        many = _run(part.model, feeds)["out"]
        for row in range(6):
            one = _run(_prelude(rows, sizes).model, {name: array[row : row + 1] for name, array in feeds.items()})[
                "out"
            ]
            assert np.array_equal(many[row : row + 1], one)
