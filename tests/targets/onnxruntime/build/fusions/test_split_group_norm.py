"""GroupNormalization becomes operators in float32 that give a constant group exactly its bias."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes import common

from diffoundry.targets.onnxruntime.build.fusions import SplitGroupNorm
from tests.graph_transforms import parse, run

TEMPLATE = """
<ir_version: 10, opset_import: ["": 23]>
g ({type}[{dims}] x, {type}[6] scale, {type}[6] bias) => ({type}[{dims}] y)
{{ y = GroupNormalization <num_groups = 2, epsilon = {epsilon}> (x, scale, bias) }}
"""

CENTRED = ["Reshape", "Slice", "Sub"]
SPLIT = [*CENTRED, "InstanceNormalization", "Shape", "Reshape", "BatchNormalization"]
MEAN = ["ReduceMean", "Sub", "Mul", "ReduceMean", "Add", "Sqrt", "Div"]
WRITTEN_OUT = [*CENTRED, *MEAN, "Shape", "Reshape", "Reshape", "Reshape", "Mul", "Add"]
ROWS = [
    "Shape",
    "Concat",
    "Reshape",
    "Slice",
    "Sub",
    "ReduceMean",
    "ReduceMean",
    "Sub",
    "ReduceSumSquare",
    "ReduceMean",
]
BY_ROWS = [*ROWS, "Cast", "Div", "Add", "Sqrt", "Reciprocal", "Mul", "Shape", "Reshape", "BatchNormalization"]
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float": torch.float32}


@pytest.mark.parametrize("dims", ["batch, 6, height, width", "2, 6, 5, 7", "2, 6, tokens"])
@pytest.mark.parametrize(("kernels", "expected"), [(True, SPLIT), (False, WRITTEN_OUT)])
def test_the_same_numbers_by_other_operators(transform, ops, numbers, dims, kernels, expected):
    x = 3 * numbers(2, 6, 5, 7) + 1
    feeds = {"x": x if dims.count(",") == 3 else x.reshape(2, 6, 35)}
    weights = {"scale": numbers(6), "bias": numbers(6)[::-1].copy()}
    text = TEMPLATE.format(type="float", dims=dims, epsilon=0.01)
    assert ops(transform(text, SplitGroupNorm(kernels=kernels), feeds, weights=weights)) == expected


@pytest.mark.parametrize("dims", ["batch, 6, height, width", "2, 6, 5, 7"])
def test_the_same_numbers_summed_by_rows(transform, ops, numbers, dims):
    feeds, weights = {"x": 3 * numbers(2, 6, 5, 7) + 1}, {"scale": numbers(6), "bias": numbers(6)[::-1].copy()}
    text = TEMPLATE.format(type="float", dims=dims, epsilon=0.01)
    assert ops(transform(text, SplitGroupNorm(by_rows=True), feeds, weights=weights)) == BY_ROWS


def test_sums_by_rows_are_exact_over_whole_images():
    """The kernel of InstanceNormalization is off by 1e-5 here, and would be by eight times as much at 1024 x 1024."""
    weights = {"scale": np.ones(6, np.float32), "bias": np.zeros(6, np.float32)}
    x = np.random.default_rng(0).standard_normal((1, 6, 512, 640), dtype=np.float32) + np.float32(0.5)
    exact = torch.nn.functional.group_norm(torch.from_numpy(x).double(), 2).numpy()
    text = TEMPLATE.format(type="float", dims="batch, 6, height, width", epsilon=0.00001)

    def error(**options):
        model = parse(text, weights, infer=True)
        SplitGroupNorm(**options)(model)
        (found,) = run(model, {"x": x})
        return np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2))

    assert error(by_rows=True) < 2e-6
    assert error(by_rows=True) < error() / 5


def _tensor(array, kind):
    return torch.from_numpy(np.ascontiguousarray(array)).to(HALF[kind])


@pytest.mark.parametrize("options", [{}, {"kernels": False}, {"by_rows": True}])
@pytest.mark.parametrize("kind", HALF)
def test_constant_groups_give_their_bias_and_others_what_torch_gives(numbers, options, kind):
    """The engine computes bfloat16 on CUDA alone: here its numbers go in and out as floats."""
    scale, bias = (_tensor(array, kind) for array in (numbers(6), numbers(6)[::-1].copy()))
    text = TEMPLATE.format(type="float" if kind == "bfloat16" else kind, dims="2, 6, 37, 45", epsilon=0.000001)
    dtype = np.float16 if kind == "float16" else np.float32
    weights = {"scale": scale.float().numpy().astype(dtype), "bias": bias.float().numpy().astype(dtype)}
    model = parse(text, weights, infer=True)
    SplitGroupNorm(**options)(model)
    for mean, spread in ((0.1234, 0), (10.07, 0), (1234.5, 0), (0, 1), (10, 0.1), (1000, 4)):
        x = _tensor(mean + spread * np.random.default_rng(0).standard_normal((2, 6, 37, 45)), kind)
        (found,) = run(model, {"x": x.float().numpy().astype(dtype)})
        exact = torch.nn.functional.group_norm(x.double(), 2, scale.double(), bias.double(), 1e-6).numpy()
        error = np.abs(found.astype(np.float64) - exact).max()
        if spread == 0:
            np.testing.assert_array_equal(found, np.broadcast_to(weights["bias"].reshape(1, -1, 1, 1), found.shape))
        assert error < (4e-3 if dtype == np.float16 else 2e-5), (mean, spread)


def test_halves_are_cast_and_constants_shared_between_layers(transform, ops, numbers):
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float16[2, 6, 5, 7] x, float16[6] scale, float16[6] bias) => (float16[2, 6, 5, 7] y)
    <float16[2, 6, 5, 7] a>
    {
        a = GroupNormalization <num_groups = 2> (x, scale, bias)
        y = GroupNormalization <num_groups = 2> (a, scale, bias)
    }
    """
    weights = {name: numbers(6).astype(np.float16) for name in ("scale", "bias")}
    feeds = {"x": numbers(2, 6, 5, 7).astype(np.float16)}
    after = transform(text, SplitGroupNorm(), feeds, weights=weights, rtol=3e-3, atol=3e-3)
    assert ops(after) == 2 * ["Cast", "Cast", "Cast", *SPLIT, "Cast"]
    assert len(after.graph.initializers) == len(weights) + 8


def test_integers_and_other_scales_stay(caplog):
    text = TEMPLATE.format(type="double", dims="2, 6, 5", epsilon=0.01)
    model = ir.from_onnx_text(text)
    common.ShapeInferencePass()(model)
    with caplog.at_level("DEBUG", logger="diffoundry"):
        assert not SplitGroupNorm()(model).modified
    assert "it is not a float of 16 or 32 bits" in caplog.text
