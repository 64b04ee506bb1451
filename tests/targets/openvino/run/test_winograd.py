"""Winograd's filtering: the numbers of a convolution, at sizes that tiles divide and that they do not."""

import numpy as np
import pytest

from diffoundry.targets.openvino.run.winograd import transforms, use_winograd

TEXT = """<ir_version: 10, opset_import: ["" : 23]>
g (float[N,{inputs},H,W] x, float[{outputs},{inputs},3,3] w, float[{outputs}] b) => (float[N,{outputs},A,B] y) {{
    y = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]{more}>(x, w, b)
}}"""


@pytest.fixture
def convolution(imported):
    def make(inputs=256, outputs=256, more=""):
        generator = np.random.default_rng(0)
        weight = generator.standard_normal((outputs, inputs, 3, 3)).astype(np.float32)
        text = TEXT.format(inputs=inputs, outputs=outputs, more=more)
        return imported(text, {"w": weight, "b": generator.standard_normal(outputs).astype(np.float32)})

    return make


def judged(model, batch, channels, height, width):
    copy = model.clone()
    copy.reshape({"x": [batch, channels, height, width]})
    return copy


def test_the_transforms_filter():
    """Against NumPy's own correlation."""
    bt, g, at = transforms()
    generator = np.random.default_rng(0)
    numbers, kernel = generator.standard_normal(6), generator.standard_normal(3)
    np.testing.assert_allclose(at @ ((g @ kernel) * (bt @ numbers)), np.correlate(numbers, kernel), rtol=1e-12)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 38)])
def test_large_convolutions_get_the_same_numbers_from_fewer_products(
    convolution, same_numbers, operators, static, height, width
):
    model = convolution(outputs=288)
    if static:
        model.reshape({"x": [2, 256, height, width]})
    assert use_winograd(model, judged(model, 2, 256, height, width)) == 1
    assert operators(model)["MatMul"] == 2
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 256, height, width)).astype(np.float32)}
    same_numbers(model, feeds)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"outputs": 128}, (32, 32)),
        ({"inputs": 128}, (32, 32)),
        ({}, (31, 32)),
        ({}, (1024, 1024)),  # its patches would fill the memory
        ({"more": ", strides=[2, 2]"}, (64, 64)),
        ({"more": ", dilations=[2, 2]"}, (64, 64)),
    ],
)
def test_other_convolutions_stay(convolution, options, size):
    model = convolution(**options)
    assert use_winograd(model, judged(model, 1, options.get("inputs", 256), *size)) == 0
