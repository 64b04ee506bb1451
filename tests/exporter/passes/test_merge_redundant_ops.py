"""Nodes that change nothing go, those that change something stay."""

import numpy as np
import pytest

from diffoundry.exporter.passes.merge_redundant_ops import MergeRedundantOps

TEMPLATE = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2, 3, 4] x) => (float[2, 3, 4] y)
<float one = {{1}}, float two = {{2}}, float zero = {{0}}, float guard = {{1e-15}}, float near = {{1.000001}}>
{{
    {body}
    y = Neg(last)
}}
"""


@pytest.mark.parametrize(
    "body",
    [
        "last = Div(x, one)",
        "last = Mul(x, one)",
        "last = Add(x, zero)",
        "last = Sub(x, zero)",
        "last = Cast <to = 1> (x)",
        "last = Transpose <perm = [0, 1, 2]> (x)",
    ],
)
def test_idle_nodes_go(transform, ops, numbers, body):
    after = transform(TEMPLATE.format(body=body), MergeRedundantOps(), {"x": numbers(2, 3, 4)})
    assert ops(after) == ["Identity", "Neg"]


def test_opposite_transposes_go(transform, ops, numbers):
    body = "t = Transpose <perm = [1, 2, 0]> (x) last = Transpose <perm = [2, 0, 1]> (t)"
    after = transform(TEMPLATE.format(body=body), MergeRedundantOps(), {"x": numbers(2, 3, 4)})
    assert "Transpose" not in ops(after)


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("last = Div(x, two)", ["Div", "Neg"]),
        ("last = Sub(zero, x)", ["Sub", "Neg"]),
        ("last = Add(x, guard)", ["Add", "Neg"]),
        ("last = Mul(x, near)", ["Mul", "Neg"]),
        ("t = Cast <to = 10> (x) last = Cast <to = 1> (t)", ["Cast", "Cast", "Neg"]),
        (
            "t = Transpose <perm = [1, 2, 0]> (x) r = Relu(t) last = Transpose <perm = [2, 0, 1]> (r)",
            ["Transpose", "Relu", "Transpose", "Neg"],
        ),
    ],
)
def test_nodes_that_compute_stay(transform, ops, numbers, body, kept):
    after = transform(TEMPLATE.format(body=body), MergeRedundantOps(), {"x": numbers(2, 3, 4)}, modified=False)
    assert ops(after) == kept


def test_the_template_is_sensitive(numbers):
    x = numbers(2, 3, 4)
    assert np.abs(x.astype(np.float16).astype(np.float32) - x).max() > 0
