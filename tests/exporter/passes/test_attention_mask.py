"""Known masks become attributes of Attention."""

import numpy as np
import onnx_ir as ir
import pytest

from diffoundry.exporter.passes.attention_mask import SimplifyAttentionMask

KNOWN = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, 2, 4, 8] q, float[batch, 2, {keys}, 8] k, float[batch, 2, {keys}, 8] v, {type}[1, 1, 4, {keys}] mask)
    => (float[batch, 2, 4, 8] y)
<int64[3] rest = {{1, 4, {keys}}}>
{{
    count = Shape <start = 0, end = 1> (q)
    target = Concat <axis = 0> (count, rest)
    spread = Expand(mask, target)
    y = Attention(q, k, v, spread)
}}
"""

LOWER = np.tri(4, dtype=bool)[None, None]


def attention(model):
    return next(node for node in model.graph if node.op_type == "Attention")


def inputs_of(model):
    return [value.name for value in attention(model).inputs if value is not None]


def is_causal(model):
    return attention(model).attributes.get_int("is_causal", 0)


def simplify(transform, numbers, mask, *, keys=4, modified=True):
    text = KNOWN.format(keys=keys, type="bool" if mask.dtype == bool else "float")
    feeds = {"q": numbers(2, 2, 4, 8), "k": numbers(2, 2, keys, 8)[::-1].copy(), "v": numbers(2, 2, keys, 8)}
    return transform(text, SimplifyAttentionMask(), feeds, weights={"mask": mask}, modified=modified)


@pytest.mark.parametrize(
    "mask",
    [
        LOWER,
        np.where(LOWER, 0, -np.inf).astype(np.float32),
        np.where(LOWER, 0, np.finfo(np.float32).min).astype(np.float32),
    ],
)
def test_a_lower_triangle_is_causal(transform, numbers, mask):
    after = simplify(transform, numbers, mask)
    assert inputs_of(after) == ["q", "k", "v"]
    assert is_causal(after)


def test_a_mask_of_nothing_goes(transform, numbers):
    after = simplify(transform, numbers, np.ones((1, 1, 4, 6), bool), keys=6)
    assert inputs_of(after) == ["q", "k", "v"]
    assert not is_causal(after)


@pytest.mark.parametrize(
    ("mask", "keys"),
    [
        (~LOWER | np.eye(4, dtype=bool), 4),
        (np.tri(4, 6, dtype=bool)[None, None], 6),
        (np.where(LOWER, 0, -1).astype(np.float32), 4),
    ],
)
def test_other_masks_only_lose_their_expand(transform, numbers, mask, keys):
    after = simplify(transform, numbers, mask, keys=keys)
    assert inputs_of(after) == ["q", "k", "v", "mask"]
    assert not is_causal(after)


FREE = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, 2, tokens, 8] q) => (float[batch, 2, tokens, 8] y)
<float nought = {{0}}, float low = {{-3.4e38}}, int64 zero = {{0}}, int64 one = {{1}}, int64[2] front = {{0, 1}},
 int64[1] last = {{3}}, int64[1] third = {{2}}, int64[1] axis = {{0}}>
{{
    length = Shape <start = 2, end = 3> (q)
    count = Squeeze(length, axis)
    counter = Range(zero, count, one)
    spread = Unsqueeze(counter, front)
    rows = Unsqueeze(spread, last)
    columns = Unsqueeze(spread, third)
    limits = Add(rows, one)
    seen = {compare}
    y = Attention(q, q, q, {mask})
}}
"""

SHAPES = {
    "counter": ["tokens"],
    "spread": [1, 1, "tokens"],
    "rows": [1, 1, "tokens", 1],
    "columns": [1, 1, 1, "tokens"],
    "limits": [1, 1, "tokens", 1],
    "seen": [1, 1, "tokens", "tokens"],
}


class WithShapes(SimplifyAttentionMask):
    """The pass on a graph whose free dimensions are named, as the tracer names them; ONNX's inference does not."""

    def call(self, model):
        for node in model.graph:
            for value in node.outputs:
                if value.name in SHAPES:
                    value.shape = ir.Shape(SHAPES[value.name])
        return super().call(model)


@pytest.mark.parametrize(
    "compare",
    [
        "LessOrEqual(columns, rows)",
        "GreaterOrEqual(rows, columns)",
        "LessOrEqual(columns, rows) added = Where(seen, nought, low)",
    ],
)
def test_compared_positions_of_a_free_length_are_causal(transform, numbers, compare):
    text = FREE.format(compare=compare, mask="added" if "Where" in compare else "seen")
    after = transform(text, WithShapes(), {"q": numbers(2, 2, 5, 8)})
    assert is_causal(after)
    assert inputs_of(after) == ["q", "q", "q"]


@pytest.mark.parametrize(
    "compare", ["LessOrEqual(rows, columns)", "GreaterOrEqual(columns, rows)", "LessOrEqual(columns, limits)"]
)
def test_other_comparisons_stay(transform, numbers, compare):
    text = FREE.format(compare=compare, mask="seen")
    after = transform(text, WithShapes(), {"q": numbers(2, 2, 5, 8)}, modified=False)
    assert not is_causal(after)
