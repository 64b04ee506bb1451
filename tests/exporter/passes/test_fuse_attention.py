"""Attention that is written out becomes the standard's Attention."""

import numpy as np
import onnx_ir as ir
import pytest

from diffoundry.exporter.passes.fuse_attention import FuseAttention

TEMPLATE = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 3, 5, 8] q, float[2, 3, 7, 8] k, float[2, 3, 7, 4] v, float[1, 1, 5, 7] mask) => (float[2, 3, 5, 4] y)
<float half = {{0.5}}, float two = {{2}}, float zero = {{0}}>
{{
    {body}
}}
"""

SWAP = "Transpose <perm = [0, 1, 3, 2]>"
SCORES = f"kt = {SWAP} (k) s = MatMul(q, kt)"
WEIGH = "p = Softmax <axis = -1> (s) y = MatMul(p, v)"


@pytest.fixture
def feeds(numbers):
    mask = np.where(np.arange(7) < 4, 0, -np.inf).astype(np.float32)
    return {
        "q": numbers(2, 3, 5, 8),
        "k": numbers(2, 3, 7, 8)[::-1].copy(),
        "v": numbers(2, 3, 7, 4),
        "mask": np.broadcast_to(mask, (1, 1, 5, 7)).copy(),
    }


@pytest.mark.parametrize(
    ("body", "scale"),
    [
        (f"{SCORES} t = Mul(s, half) p = Softmax <axis = -1> (t) y = MatMul(p, v)", 0.5),
        (f"{SCORES} t = Mul(half, s) p = Softmax <axis = 3> (t) y = MatMul(p, v)", 0.5),
        (f"{SCORES} t = Div(s, two) p = Softmax <axis = -1> (t) y = MatMul(p, v)", 0.5),
        (f"{SCORES} {WEIGH}", 1.0),
        (
            f"qs = Mul(q, half) kt = {SWAP} (k) ks = Mul(kt, two) s = MatMul(qs, ks) {WEIGH}",
            1.0,
        ),
        (
            f"ks = Mul(k, half) kt = {SWAP} (ks) s = MatMul(q, kt) {WEIGH}",
            0.5,
        ),
    ],
)
def test_every_position_of_the_scale(transform, ops, feeds, body, scale):
    after = transform(TEMPLATE.format(body=body), FuseAttention(), feeds)
    assert ops(after) == ["Attention"]
    assert after.graph[0].attributes["scale"].as_float() == scale
    assert len(after.graph[0].inputs) == 3


@pytest.mark.parametrize("added", ["Add(t, mask)", "Add(mask, t)"])
@pytest.mark.parametrize("guarded", [False, True])
def test_with_a_mask_and_the_guard_against_nan(transform, ops, feeds, added, guarded):
    guard = "n = IsNaN(p) w = Where(n, zero, p) y = MatMul(w, v)" if guarded else "y = MatMul(p, v)"
    body = f"{SCORES} t = Mul(s, half) u = {added} p = Softmax <axis = -1> (u) {guard}"
    after = transform(TEMPLATE.format(body=body), FuseAttention(), feeds)
    assert ops(after) == ["Attention"]
    assert after.graph[0].inputs[3].name == "mask"


def test_a_key_whose_transposes_have_merged(transform, ops, numbers):
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[2, 3, 5, 8] q, float[2, 7, 3, 8] k, float[2, 3, 7, 4] v) => (float[2, 3, 5, 4] y)
    {
        kt = Transpose <perm = [0, 2, 3, 1]> (k)
        s = MatMul(q, kt)
        p = Softmax <axis = -1> (s)
        y = MatMul(p, v)
    }
    """
    feeds = {"q": numbers(2, 3, 5, 8), "k": numbers(2, 7, 3, 8)[::-1].copy(), "v": numbers(2, 3, 7, 4)}
    assert ops(transform(text, FuseAttention(), feeds)) == ["Transpose", "Attention"]


def test_heads_folded_into_the_batch(transform, ops, numbers):
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[6, 5, 8] q, float[6, 7, 8] k, float[6, 7, 4] v) => (float[6, 5, 4] y)
    <float half = {0.5}>
    {
        kt = Transpose <perm = [0, 2, 1]> (k)
        s = MatMul(q, kt)
        t = Mul(s, half)
        p = Softmax <axis = -1> (t)
        y = MatMul(p, v)
    }
    """
    feeds = {"q": numbers(6, 5, 8), "k": numbers(6, 7, 8)[::-1].copy(), "v": numbers(6, 7, 4)}
    after = transform(text, FuseAttention(), feeds)
    assert ops(after) == ["Attention"]
    assert after.graph[0].attributes["q_num_heads"].as_int() == 1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (f"{SCORES} p = Softmax <axis = 2> (s) y = MatMul(p, v)", "axis"),
        (f"{SCORES} p = Softmax <axis = -1> (s) w = Mul(p, half) y = MatMul(w, v)", "left side"),
        (f"{SCORES} r = Relu(s) p = Softmax <axis = -1> (r) y = MatMul(p, v)", "not one MatMul"),
        (
            f"{SCORES} p = Softmax <axis = -1> (s) n = IsNaN(p) w = Where(n, half, p) y = MatMul(w, v)",
            "does not put 0",
        ),
        (f"{SCORES} p = Softmax <axis = -1> (s) n = IsNaN(s) w = Where(n, zero, p) y = MatMul(w, v)", "no guard"),
    ],
)
def test_other_patterns_stay_and_the_log_gives_the_reason(transform, ops, feeds, caplog, body, why):
    with caplog.at_level("DEBUG", logger="diffoundry"):
        after = transform(TEMPLATE.format(body=body), FuseAttention(), feeds, modified=False)
    assert "Attention" not in ops(after)
    assert why in caplog.text


def test_weights_that_are_an_output_stay(transform, ops, feeds):
    text = TEMPLATE.format(body=f"{SCORES} {WEIGH}")
    text = text.replace("=> (float[2, 3, 5, 4] y)", "=> (float[2, 3, 5, 4] y, float[2, 3, 5, 7] p)")
    assert "Softmax" in ops(transform(text, FuseAttention(), feeds, modified=False))


def test_scores_that_are_used_twice_stay(transform, ops, feeds):
    text = TEMPLATE.format(body=f"{SCORES} {WEIGH} z = Neg(s)")
    text = text.replace("=> (float[2, 3, 5, 4] y)", "=> (float[2, 3, 5, 4] y, float[2, 3, 5, 7] z)")
    assert "Softmax" in ops(transform(text, FuseAttention(), feeds, modified=False))


def test_an_older_graph_is_refused():
    text = '<ir_version: 10, opset_import: ["": 22]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    with pytest.raises(ir.passes.PreconditionError, match="has opset 22, expected 23 or later"):
        FuseAttention()(ir.from_onnx_text(text))
