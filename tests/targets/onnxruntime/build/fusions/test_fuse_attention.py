"""Attention between split and joined heads becomes MultiHeadAttention."""

import pytest

from diffoundry.targets.onnxruntime.build.fusions import FuseMultiHeadAttention

TEMPLATE = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 5, 12] q, float[2, {keys}, 12] k, float[2, {keys}, 12] v, float[5, {keys}] mask) => (float[2, 5, 12] y)
<int64[4] heads = {{0, 0, 3, 4}}, int64[3] joined = {{0, 0, 12}}>
{{
    q3 = Reshape(q, heads)
    k3 = Reshape(k, heads)
    v3 = Reshape(v, heads)
    q4 = Transpose <perm = [0, 2, 1, 3]> (q3)
    k4 = Transpose <perm = [0, 2, 1, 3]> (k3)
    v4 = Transpose <perm = [0, 2, 1, 3]> (v3)
    a = Attention {attributes} ({inputs})
    t = Transpose <perm = [0, 2, 1, 3]> (a)
    y = Reshape(t, joined)
}}
"""


def fuse(transform, numbers, *, keys=7, attributes="", inputs="q4, k4, v4", modified=True):
    text = TEMPLATE.format(keys=keys, attributes=attributes, inputs=inputs)
    feeds = {
        "q": numbers(2, 5, 12),
        "k": numbers(2, keys, 12)[::-1].copy(),
        "v": numbers(2, keys, 12),
        "mask": numbers(5, keys),
    }
    return transform(text, FuseMultiHeadAttention(), feeds, modified=modified)


@pytest.mark.parametrize(
    ("attributes", "keys"), [("", 7), ("<scale = 0.3>", 7), ("<is_causal = 1>", 5), ("<is_causal = 1, scale = 0.3>", 5)]
)
def test_one_operator_is_left(transform, ops, numbers, attributes, keys):
    after = fuse(transform, numbers, keys=keys, attributes=attributes)
    assert ops(after) == ["com.microsoft::MultiHeadAttention"]
    assert after.graph[0].attributes["num_heads"].as_int() == 3
    assert after.opset_imports["com.microsoft"] == 1


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"inputs": "q4, k4, v4, mask"}, "it has a mask"),
        ({"attributes": "<softcap = 2.0>"}, "caps its scores"),
        ({"inputs": "q4, k4, k4, mask"}, "it has a mask"),
    ],
)
def test_others_stay_and_the_log_says_why(transform, ops, numbers, caplog, changed, why):
    with caplog.at_level("DEBUG", logger="diffoundry"):
        after = fuse(transform, numbers, modified=False, **changed)
    assert "Attention" in ops(after)
    assert why in caplog.text


def test_heads_split_in_another_way_stay(transform, ops, numbers, caplog):
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[2, 3, 5, 4] q, float[2, 5, 12] k) => (float[2, 5, 12] y)
    <int64[4] heads = {0, 0, 3, 4}, int64[3] joined = {0, 0, 12}>
    {
        k3 = Reshape(k, heads)
        k4 = Transpose <perm = [0, 2, 1, 3]> (k3)
        a = Attention(q, k4, k4)
        t = Transpose <perm = [0, 2, 1, 3]> (a)
        y = Reshape(t, joined)
    }
    """
    feeds = {"q": numbers(2, 3, 5, 4), "k": numbers(2, 5, 12)}
    with caplog.at_level("DEBUG", logger="diffoundry"):
        after = transform(text, FuseMultiHeadAttention(), feeds, modified=False)
    assert "Attention" in ops(after)
    assert "heads are not split and joined" in caplog.text


def test_an_output_that_is_read_twice_stays(transform, ops, numbers):
    text = TEMPLATE.format(keys=5, attributes="", inputs="q4, k4, v4")
    text = text.replace("=> (float[2, 5, 12] y)", "=> (float[2, 5, 12] y, float[2, 3, 5, 4] z)")
    text = text.replace("y = Reshape(t, joined)", "y = Reshape(t, joined) z = Neg(a)")
    feeds = {name: numbers(2, 5, 12) for name in "qkv"} | {"mask": numbers(5, 5)}
    assert "Attention" in ops(transform(text, FuseMultiHeadAttention(), feeds, modified=False))
