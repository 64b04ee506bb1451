"""GroupNormalization in float32 becomes InstanceNormalization and BatchNormalization."""

import numpy as np
import pytest

from diffoundry.targets.onnxruntime.build.fusions import SplitGroupNorm

TEMPLATE = """
<ir_version: 10, opset_import: ["": 23]>
g ({type}[{dims}] x, {type}[6] scale, {type}[6] bias) => ({type}[{dims}] y)
{{ y = GroupNormalization <num_groups = 2, epsilon = 0.01> (x, scale, bias) }}
"""

SPLIT = ["Reshape", "InstanceNormalization", "Shape", "Reshape", "BatchNormalization"]


@pytest.mark.parametrize("dims", ["batch, 6, height, width", "2, 6, 5, 7", "2, 6, tokens"])
def test_the_same_numbers_by_other_operators(transform, ops, numbers, dims):
    x = 3 * numbers(2, 6, 5, 7) + 1
    feeds = {"x": x if dims.count(",") == 3 else x.reshape(2, 6, 35)}
    weights = {"scale": numbers(6), "bias": numbers(6)[::-1].copy()}
    text = TEMPLATE.format(type="float", dims=dims)
    assert ops(transform(text, SplitGroupNorm(), feeds, weights=weights)) == SPLIT


def test_half_precision_stays(transform, ops, numbers):
    feeds = {"x": numbers(2, 6, 5, 7), "scale": numbers(6), "bias": numbers(6)}
    feeds = {name: array.astype(np.float16) for name, array in feeds.items()}
    text = TEMPLATE.format(type="float16", dims="2, 6, 5, 7")
    assert ops(transform(text, SplitGroupNorm(), feeds, modified=False)) == ["GroupNormalization"]


def test_constants_are_shared_between_layers(transform, numbers):
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[2, 6, 5, 7] x, float[6] scale, float[6] bias) => (float[2, 6, 5, 7] y)
    {
        a = GroupNormalization <num_groups = 2> (x, scale, bias)
        y = GroupNormalization <num_groups = 2> (a, scale, bias)
    }
    """
    weights = {"scale": numbers(6), "bias": numbers(6)}
    after = transform(text, SplitGroupNorm(), {"x": numbers(2, 6, 5, 7)}, weights=weights)
    assert len(after.graph.initializers) == len(weights) + 5
