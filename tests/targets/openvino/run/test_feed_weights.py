"""Convolutions whose integer weights stay in the model's file, against the plugin's own."""

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from diffoundry.targets.openvino.run import feed_weights as module
from diffoundry.targets.openvino.run.feed_weights import feed_weights
from diffoundry.targets.openvino.run.request_pool import RequestPool

SHAPE = (16, 12, 3, 3)
CONFIG = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "_SMALLEST", SHAPE[0] * SHAPE[1])


def weight(kind, shape, zero_point=False):
    """Make what decompresses a constant: a scale for each output, and a zero point."""
    generator = np.random.default_rng(0)
    low, high = {ov.Type.i8: (-127, 128), ov.Type.u8: (0, 255), ov.Type.i4: (-8, 8)}[kind]
    numbers = generator.integers(low, high, shape)
    constant = ops.constant(numbers.astype(np.int8 if kind != ov.Type.u8 else np.uint8), kind)
    floats = ops.convert(constant, "f32")
    if zero_point:
        floats = ops.subtract(floats, ops.constant(generator.integers(1, 9, (shape[0], 1, 1, 1)).astype(np.float32)))
    scale = generator.uniform(0.01, 0.1, (shape[0], 1, 1, 1)).astype(np.float32)
    return ops.multiply(floats, ops.constant(scale))


def convolution(kind=ov.Type.i8, shape=SHAPE, stride=1, dilation=1, pads=((1, 1), (1, 1)), **more):
    x = ops.parameter([-1, shape[1], -1, -1], ov.Type.f32)
    x.output(0).set_names({"x"})
    y = ops.convolution(x, weight(kind, shape, **more), [stride] * 2, *map(list, pads), [dilation] * 2)
    y.output(0).set_names({"y"})
    return ov.Model([ops.result(y)], [x])


def run(model, x, weights=None):
    pool = RequestPool(ov.Core().compile_model(model, "CPU", CONFIG), (), weights)
    request = pool.request()
    request.set_tensor("x", ov.Tensor(x))
    request.infer()
    return request.get_output_tensor(0).data.copy()


CASES = {
    "int8": {},
    "uint8 with a zero point": {"kind": ov.Type.u8, "zero_point": True},
    "int4": {"kind": ov.Type.i4},
    "a stride": {"stride": 2},
    "a dilation": {"dilation": 2},
    "pads that differ": {"stride": 2, "pads": ((0, 1), (1, 2))},
    "one pixel": {"shape": (16, 12, 1, 1), "pads": ((0, 0), (0, 0))},
}


def test_numbers_are_those_of_constants():
    for case, options in CASES.items():
        model = convolution(**options)
        x = np.random.default_rng(1).standard_normal((2, SHAPE[1], 12, 9)).astype(np.float32)
        expected = run(model, x)
        fed = feed_weights(model)
        assert len(fed) == len(model.inputs) - 1 == 1, case
        rounding = 1e-6 * np.abs(expected).max() if options.get("zero_point") else 0
        np.testing.assert_allclose(run(model, x, fed), expected, rtol=0, atol=rounding, err_msg=case)


def test_layers_that_share_a_weight_share_its_input():
    x = ops.parameter([1, 12, 12, 12], ov.Type.f32)
    x.output(0).set_names({"x"})
    kernel = weight(ov.Type.i8, (12, 12, 3, 3))
    place = ([1, 1], [1, 1], [1, 1], [1, 1])
    y = ops.convolution(ops.convolution(x, kernel, *place), kernel, *place)
    model = ov.Model([ops.result(y)], [x])
    numbers = np.random.default_rng(1).standard_normal((1, 12, 12, 12)).astype(np.float32)
    expected = run(model, numbers)
    fed = feed_weights(model)
    assert len(fed) == len(model.inputs) - 1 == 1
    assert np.array_equal(run(model, numbers, fed), expected)


def test_other_layers_keep_their_weights(monkeypatch):
    monkeypatch.setattr(module, "_SMALLEST", 1 << 20)
    assert not feed_weights(convolution())
    monkeypatch.setattr(module, "_SMALLEST", 1)
    assert feed_weights(convolution())
    x = ops.parameter([1, 12, 12, 12], ov.Type.f32)
    floats = ops.constant(np.ones(SHAPE, np.float32))
    place = ([1, 1], [1, 1], [1, 1], [1, 1])
    assert not feed_weights(ov.Model([ops.result(ops.convolution(x, floats, *place))], [x]))
    layer = ops.convolution(x, weight(ov.Type.i8, (16, 12, 1, 1)), [1, 1], [0, 0], [0, 0], [1, 1])
    tokens = ops.transpose(layer, ops.constant(np.array([0, 2, 3, 1])))
    assert not feed_weights(ov.Model([ops.result(tokens)], [x]))
    kernel = weight(ov.Type.i8, SHAPE)
    product = ops.matmul(kernel, kernel, False, True)
    also = [ops.result(ops.convolution(x, kernel, *place)), ops.result(product)]
    assert not feed_weights(ov.Model(also, [x]))  # a product has compressed weights itself
