"""The split of a denoiser's graph around its inner part."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.passes.half_precision import HalfPrecision
from diffoundry.exporter.passes.split import split
from diffoundry.exporter.recipe import make_recipe
from diffoundry.exporter.request import ExportRequest
from diffoundry.exporter.steps.graph_names import MODULE_KEY
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.roles import DENOISER

UNET = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, 2, 4, 4] sample, float[1] timestep, float[batch, 2, 4, 4] down_block_additional_residual_0,
   float[1] unread) => (float[batch, 2, 4, 4] out)
<float[2, 2, 1, 1] first = {{{first}}}, float[2, 4, 1, 1] last = {{{last}}}>
{{
    start = Conv (sample, first)
    timed = Add (start, timestep)
    mid = Conv (timed, first)
    inner = Tanh (mid)
    skip = Add (start, down_block_additional_residual_0)
    joined = Concat <axis = 1> (inner, skip)
    end = Conv (joined, last)
    out = Add (end, timestep)
}}
"""
UNET_MODULES = {"start": "conv_in", "mid": "mid_block", "inner": "up_blocks.0", "joined": "up_blocks.1"}

TRANSFORMER = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, tokens, 4] hidden_states, float[1] timestep, float[batch, words, 4] encoder_hidden_states)
    => (float[batch, tokens, 4] out)
<float[4, 4] weight = {{{first}}}, float[1, 4] time = {{{last}}}, int64[1] axis = {{-1}}>
{{
    x = MatMul (hidden_states, weight)
    column = Unsqueeze (timestep, axis)
    shift = MatMul (column, time)
    words = MatMul (encoder_hidden_states, weight)
    a = MatMul (x, weight)
    shifted = Mul (a, shift)
    x1 = Add (x, shifted)
    b = Tanh (x1)
    c = MatMul (b, weight)
    words_turned = Transpose <perm = [0, 2, 1]> (words)
    scores = MatMul (c, words_turned)
    mixed = MatMul (scores, words)
    x2a = Add (mixed, x1)
    d = MatMul (x2a, weight)
    x2 = Add (x2a, d)
    normed = Mul (x2, shift)
    out = MatMul (normed, weight)
}}
"""
TRANSFORMER_MODULES = {
    **dict.fromkeys(("a", "shifted", "x1"), "transformer_blocks.0"),
    **dict.fromkeys(("b", "c", "mixed", "x2a", "d", "x2"), "transformer_blocks.1"),
    "normed": "norm_out",
}

TWO_STREAMS = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, tokens, 64] hidden_states, float[batch, words, 64] encoder_hidden_states)
    => (float[batch, tokens, 64] out)
<float[64, 64] weight = {{{first}}}, float[64] bias = {{{last}}}>
{{
    words = MatMul (encoder_hidden_states, weight)
    x = MatMul (hidden_states, weight)
    a = MatMul (x, weight)
    x1 = Add (x, a)
    turned = Transpose <perm = [0, 2, 1]> (x)
    scores = MatMul (words, turned)
    mixed = MatMul (scores, x)
    w0 = Add (words, mixed)
    e = MatMul (w0, weight)
    w1 = Add (w0, e)
    normed_words = LayerNormalization (w1, bias, bias)
    b = Tanh (x1)
    words_turned = Transpose <perm = [0, 2, 1]> (normed_words)
    more_scores = MatMul (b, words_turned)
    more_mixed = MatMul (more_scores, normed_words)
    x2a = Add (more_mixed, x1)
    product = MatMul (x2a, weight)
    d = Add (product, bias)
    x2 = Add (x2a, d)
    normed = LayerNormalization (x2, bias, bias)
    out = MatMul (normed, weight)
}}
"""
TWO_STREAMS_MODULES = {
    **dict.fromkeys(("a", "x1", "turned", "scores", "mixed", "w0", "e", "w1"), "transformer_blocks.0"),
    **dict.fromkeys(("normed_words", "b", "words_turned", "more_scores", "more_mixed"), "transformer_blocks.1"),
    **dict.fromkeys(("x2a", "product", "d", "x2"), "transformer_blocks.1"),
    "normed": "norm_out",
}


@pytest.fixture
def make(numbers):
    """Factory: a graph of random weights, with names of modules and the shapes that the tracer records."""

    def build(text, modules, first, last):
        import onnx

        constants = [", ".join(map(str, numbers(*shape).ravel())) for shape in (first, last)]
        read = ir.from_onnx_text(text.format(first=constants[0], last=constants[1]))
        model = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(read)))
        for node in model.graph:
            name = str(node.outputs[0].name)
            if name in modules:
                node.metadata_props[MODULE_KEY] = modules[name]
        return model

    return build


@pytest.fixture
def unet(make):
    return make(UNET, UNET_MODULES, (2, 2), (2, 4))


@pytest.fixture
def transformer(make):
    return make(TRANSFORMER, TRANSFORMER_MODULES, (4, 4), (1, 4))


def run(model, feeds):
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    values = session.run(None, {one.name: feeds[one.name] for one in session.get_inputs()})
    return dict(zip([one.name for one in session.get_outputs()], values, strict=True))


def chain(parts, feeds):
    values = dict(feeds)
    for part in parts:
        values |= run(part.model, values)
    return values


def names(values):
    return {value.name for value in values}


@pytest.fixture
def unet_feeds(numbers):
    image = (2, 2, 4, 4)
    shapes = {"sample": image, "timestep": (1,), "down_block_additional_residual_0": image, "unread": (1,)}
    return {name: numbers(*shape) for name, shape in shapes.items()}


@pytest.fixture
def token_feeds(numbers):
    shapes = {"hidden_states": (2, 5, 4), "timestep": (1,), "encoder_hidden_states": (2, 3, 4)}
    return {name: numbers(*shape) for name, shape in shapes.items()}


def test_a_unet_is_cut_at_its_outermost_skip(unet, unet_feeds):
    inner, outer = split(unet, "unet")
    assert (inner.name, outer.name) == ("inner", "outer")
    assert names(inner.model.graph.inputs) == {"sample", "timestep", "unread"}
    assert names(inner.model.graph.outputs) == {"inner"}
    residual = "down_block_additional_residual_0"
    assert names(outer.model.graph.inputs) == {"sample", "timestep", residual, "inner"}
    assert inner.residuals == outer.residuals == {}
    assert np.array_equal(chain((inner, outer), unet_feeds)["out"], run(unet, unet_feeds)["out"])


def test_a_transformer_is_cut_around_its_further_blocks(transformer, token_feeds):
    head, body, tail = split(transformer, "transformer")
    assert [part.name for part in (head, body, tail)] == ["head", "body", "tail"]
    assert names(head.model.graph.outputs) == {"x", "x1", "shift"}  # the tail reads the shift as well
    assert names(body.model.graph.inputs) == {"encoder_hidden_states", "x1"}
    assert names(tail.model.graph.inputs) == {"x2a", "d", "shift"}
    assert (head.residuals, body.residuals) == ({"x1": "x"}, {"x2a": "x1", "d": "x1"})
    assert np.array_equal(chain((head, body, tail), token_feeds)["out"], run(transformer, token_feeds)["out"])


def test_sums_before_norms_are_made_where_the_norms_are(make, numbers):
    """ONNX Runtime fuses them, the bias included, and rounds in another way than norms of a sum that it reads."""
    whole = make(TWO_STREAMS, TWO_STREAMS_MODULES, (64, 64), (64,))
    feeds = {name: numbers(2, rows, 64) for name, rows in (("hidden_states", 5), ("encoder_hidden_states", 3))}
    head, body, tail = split(whole, "transformer")
    assert names(head.model.graph.outputs) == {"x", "x1", "w0", "e"}
    assert names(body.model.graph.outputs) == {"x2a", "product"}
    assert np.array_equal(chain((head, body, tail), feeds)["out"], run(whole, feeds)["out"])


def test_halves_are_handed_over_as_float32(transformer, token_feeds):
    HalfPrecision(dtype=ir.DataType.FLOAT16)(transformer)
    parts = split(transformer, "transformer")
    assert {value.dtype for part in parts for value in part.model.graph.outputs} == {ir.DataType.FLOAT}
    assert np.array_equal(chain(parts, token_feeds)["out"], run(transformer, token_feeds)["out"])


def _forget(model, start):
    for node in model.graph:
        if node.metadata_props.get(MODULE_KEY, "").startswith(start):
            del node.metadata_props[MODULE_KEY]


def _add_twice(model):
    """Let the last layer read the middle of the inner part as well."""
    _named(model, "skip").producer().replace_input_with(1, _named(model, "mid"))


def _named(model, name):
    return next(value for node in model.graph for value in node.outputs if value.name == name)


def _without_skip(model):
    """Let the last layer join what does not come from the latents."""
    _named(model, "joined").producer().replace_input_with(1, _named(model, "start").producer().inputs[1])


def _of_another_size(model):
    """Record other tokens for all that follows the first block."""
    for name in ("x2", "normed", "out"):
        _named(model, name).shape = ir.Shape(["batch", 3, 4])


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        ("unet", _without_skip, "its up blocks join no skip"),
        ("transformer", _of_another_size, "nothing after its block transformer_blocks.1 has the shape of what"),
        ("unet", lambda model: _forget(model, "up_blocks"), "it has no two blocks one after another"),
        ("unet", _add_twice, "its outer part reads several values of the inner one"),
        ("transformer", lambda model: _forget(model, "transformer_blocks.1"), "it has no two blocks one after another"),
        ("transformer", lambda model: _forget(model, "transformer_blocks.0"), "does not add to one value"),
    ],
)
def test_a_denoiser_without_a_place_is_refused(request, kind, change, why):
    model = request.getfixturevalue(kind)
    change(model)
    with pytest.raises(InputError, match=rf"--split: got net, which has no place for a cut \(.*{why}.*leave --split"):
        split(model, "net")


def test_a_network_without_latents_is_refused():
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[2, 4] timestep) => (float[2, 4] out) { out = Neg (timestep) }
    """
    with pytest.raises(InputError, match="it is no network of latents"):
        split(ir.from_onnx_text(text), "net")


def test_a_pipeline_without_a_denoiser_is_refused():
    checkpoint = open_checkpoint("emoji")
    others = tuple(one for one in checkpoint.components if one.role != DENOISER)
    request = ExportRequest(variants=(Variant(target="onnxruntime", precision="fp32"),), split=True)
    assert make_recipe(checkpoint, request).split
    with pytest.raises(InputError, match="--split: got emoji, which has no denoiser, expected a pipeline with one; le"):
        make_recipe(replace(checkpoint, components=others), request)
