"""Group normalisation that is written out becomes the standard's GroupNormalization."""

import numpy as np
import onnx_ir as ir
import pytest

from diffoundry.exporter.passes.fuse_group_norm import FuseGroupNorm

TEMPLATE = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, 6, height, width] x, float[6, 1, 1] scale, float[6, 1, 1] bias, float[2] ones, float[2] zeros)
    => (float[batch, 6, height, width] y)
<int64[3] groups = {{0, 2, -1}}>
{{
    r = Reshape(x, groups)
    n = InstanceNormalization <epsilon = 0.001> (r, ones, zeros)
    whole = Shape(x)
    m = Reshape(n, whole)
    {body}
}}
"""

SHAPES = {"r": ["batch", 2, None], "n": ["batch", 2, None], "m": ["batch", 6, "height", "width"]}


class WithShapes(FuseGroupNorm):
    """The pass on a graph whose free dimensions are named, as the tracer names them; ONNX's inference does not."""

    def call(self, model):
        for node in model.graph:
            for value in node.outputs:
                if value.name in SHAPES:
                    value.shape = ir.Shape(SHAPES[value.name])
        return super().call(model)


def fuse(transform, numbers, body, *, modified=True, **changed):
    weights = {
        "scale": numbers(6, 1, 1),
        "bias": numbers(6, 1, 1)[::-1].copy(),
        "ones": np.ones(2, np.float32),
        "zeros": np.zeros(2, np.float32),
    }
    feeds = {"x": 3 * numbers(2, 6, 3, 4) + 1}
    return transform(TEMPLATE.format(body=body), WithShapes(), feeds, weights=weights | changed, modified=modified)


@pytest.mark.parametrize("body", ["s = Mul(m, scale) y = Add(s, bias)", "s = Mul(scale, m) y = Add(bias, s)"])
def test_the_decomposition_is_recognised(transform, ops, numbers, body):
    after = fuse(transform, numbers, body)
    assert ops(after) == ["GroupNormalization"]
    attributes = after.graph[0].attributes
    assert attributes["num_groups"].as_int() == 2
    assert attributes["epsilon"].as_float() == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("body", "changed", "why"),
    [
        ("y = Add(m, bias)", {}, "no multiplication"),
        ("s = Mul(m, scale) y = Sub(s, bias)", {}, "no multiplication"),
        ("s = Mul(m, scale) y = Add(s, bias)", {"ones": np.array([1, 2], np.float32)}, "scale or a bias of its own"),
        ("s = Mul(m, scale) y = Add(s, bias)", {"zeros": np.array([0, 2], np.float32)}, "scale or a bias of its own"),
        ("s = Mul(m, m) y = Add(s, bias)", {}, "no multiplication"),
    ],
)
def test_other_normalisations_stay_and_the_log_says_why(transform, ops, numbers, caplog, body, changed, why):
    with caplog.at_level("DEBUG", logger="diffoundry"):
        after = fuse(transform, numbers, body, modified=False, **changed)
    assert "GroupNormalization" not in ops(after)
    assert why in caplog.text


def test_a_plain_instance_normalisation_stays(transform, ops, numbers):
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[2, 6, 5] x, float[6] scale, float[6] bias) => (float[2, 6, 5] y)
    { y = InstanceNormalization(x, scale, bias) }
    """
    feeds = {"x": numbers(2, 6, 5), "scale": numbers(6), "bias": numbers(6)}
    assert ops(transform(text, FuseGroupNorm(), feeds, modified=False)) == ["InstanceNormalization"]


def test_an_older_graph_is_refused():
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    with pytest.raises(ir.passes.PreconditionError, match="has opset 20, expected 21 or later"):
        FuseGroupNorm()(ir.from_onnx_text(text))
