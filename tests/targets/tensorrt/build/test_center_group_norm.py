"""GroupNormalization in float32 gets the difference to an element, in constant groups 0."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from diffoundry.targets.tensorrt.build.center_group_norm import CenterGroupNorm
from tests.graph_transforms import parse

TEXT = """
<ir_version: 10, opset_import: ["": 23]>
g ({type}[{dims}] x, {type}[6] scale, {type}[6] bias) => ({type}[{dims}] y)
{{ y = GroupNormalization <num_groups = 2, epsilon = 0.000001> (x, scale, bias) }}
"""


def _outputs(model, x):
    return ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})[0]


@pytest.mark.parametrize("dims", ["batch, 6, height, width", "2, 6, tokens"])
def test_constant_groups_give_their_bias_and_others_the_same(dims):
    generator = np.random.default_rng(0)
    weights = {name: generator.standard_normal(6).astype(np.float32) for name in ("scale", "bias")}
    shape = (2, 6, 5, 7) if "height" in dims else (2, 6, 35)
    before, after = (parse(TEXT.format(type="float", dims=dims), weights, infer=True) for _ in range(2))
    assert CenterGroupNorm()(after).modified
    assert [node.op_type for node in after.graph] == ["Slice", "Gather", "Sub", "GroupNormalization"]
    noise = generator.standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(_outputs(after, noise), _outputs(before, noise), atol=2e-6)
    constant = np.repeat([10.07, -3.3], 3).astype(np.float32).reshape(1, 6, *[1] * (len(shape) - 2))
    found = _outputs(after, np.broadcast_to(constant, shape).copy())
    bias = weights["bias"].reshape(1, 6, *[1] * (len(shape) - 2))
    np.testing.assert_array_equal(found, np.broadcast_to(bias, shape))


def test_halves_and_unknown_channels_stay(caplog):
    for kind, dims, reason in (("float16", "2, 6, 5", "not float32"), ("float", "2, channels, 5", "not known")):
        model = parse(TEXT.format(type=kind, dims=dims), {}, infer=True)
        with caplog.at_level("DEBUG", logger="diffoundry"):
            assert not CenterGroupNorm()(model).modified
        assert reason in caplog.text
