"""Large 3 x 3 convolutions as matrix products: the algebra, the numbers, and when not."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from diffoundry.targets.onnxruntime.build.fusions import WinogradConvolution
from diffoundry.targets.onnxruntime.build.fusions.winograd_convolution import transforms

TEMPLATE = """
<ir_version: 10, opset_import: ["": 23]>
g ({type}[{dims}] x, {type}[256, {inner}, 3, 3] w, {type}[256] b) => ({type}[{out}] y)
{{ y = Conv <{attributes}> (x, w, b) }}
"""

PADDED = "kernel_shape = [3, 3], pads = [1, 1, 1, 1]"
FREE = "n, 256, height, width"


def test_the_transforms_filter_exactly():
    """A' ((G g) * (B' d)) is the correlation of d with g, Lavin and Gray 2015, equation 5."""
    generator = np.random.default_rng(0)
    bt, g, at = transforms()
    assert (bt.shape, g.shape, at.shape) == ((6, 6), (6, 3), (4, 6))
    for _ in range(10):
        d, k = generator.standard_normal(6), generator.standard_normal(3)
        np.testing.assert_allclose(at @ ((g @ k) * (bt @ d)), np.correlate(d, k, "valid"), rtol=0, atol=1e-13)


class OfLatents(WinogradConvolution):
    """The pass on a graph whose free map is an eighth of the image, which ONNX's text cannot say."""

    def call(self, model):
        for value in (*model.graph.inputs, *model.graph.outputs):
            if value.shape is not None and value.shape.rank() == 4 and value.shape[2] == "height":
                value.shape = ir.Shape([*value.shape[:2], "height/8", "width/8"])
        return super().call(model)


def convolution(dims=FREE, out=None, attributes=PADDED, inner=256, kind="float"):
    return TEMPLATE.format(type=kind, dims=dims, out=out or dims, attributes=attributes, inner=inner)


def weights(inner=256):
    generator = np.random.default_rng(1)
    scale = (9 * inner) ** -0.5
    return {
        "w": (generator.standard_normal((256, inner, 3, 3)) * scale).astype(np.float32),
        "b": generator.standard_normal(256).astype(np.float32),
    }


# Results have size 1 to 5 and a root mean square error of 1e-6. The last output of a tile takes the products times
# (3/2)^6 = 11, so the worst of a million numbers is worse than in a normal distribution: 1.8e-5 was seen.
TOLERANCE = {"rtol": 0, "atol": 4e-5}


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 32, 32), (2, 33, 34), (1, 35, 4), (3, 1, 2)])
def test_a_free_size_gives_the_convolutions_numbers_at_every_size(transform, ops, batch, height, width):
    x = np.random.default_rng(2).standard_normal((batch, 256, height, width)).astype(np.float32)
    after = transform(convolution(), OfLatents(), {"x": x}, weights=weights(), **TOLERANCE)
    assert ops(after).count("MatMul") == 2
    assert "Slice" in ops(after)


def test_a_known_size_of_whole_tiles_needs_no_slice(transform, ops):
    x = np.random.default_rng(2).standard_normal((1, 256, 32, 36)).astype(np.float32)
    text = convolution("n, 256, 32, 36")
    assert "Slice" not in ops(transform(text, WinogradConvolution(), {"x": x}, weights=weights(), **TOLERANCE))


def test_a_known_size_of_broken_tiles_is_cut(transform, ops):
    x = np.random.default_rng(2).standard_normal((1, 256, 34, 36)).astype(np.float32)
    text = convolution("n, 256, 34, 36")
    assert "Slice" in ops(transform(text, WinogradConvolution(), {"x": x}, weights=weights(), **TOLERANCE))


def test_without_bias(transform, ops):
    x = np.random.default_rng(2).standard_normal((1, 256, 32, 32)).astype(np.float32)
    text = convolution().replace("(x, w, b)", "(x, w)").replace("float[256] b", "float[1] b")
    w = {"w": weights()["w"]}
    after = transform(text, OfLatents(), {"x": x, "b": np.ones(1, np.float32)}, weights=w, **TOLERANCE)
    assert "Add" not in ops(after)


def test_the_error_is_a_few_roundings(numbers):
    """Root mean square, against float64: 7e-7 were seen, 1.7e-6 with the usual points 0, 1, -1, 2, -2."""
    text = convolution("1, 256, 32, 32")
    model = ir.from_onnx_text(text)
    for name, array in weights().items():
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    WinogradConvolution()(model)
    x = np.random.default_rng(3).standard_normal((1, 256, 32, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    got = session.run(None, {"x": x})[0]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    exact = np.einsum("nchwij,kcij->nkhw", windows, weights()["w"].astype(np.float64), optimize=True)
    exact += weights()["b"][:, None, None]
    assert np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2)) < 1.1e-6


def test_the_weight_is_transformed_when_it_is_written(transform):
    x = np.random.default_rng(2).standard_normal((1, 256, 32, 32)).astype(np.float32)
    after = transform(convolution(), OfLatents(), {"x": x}, weights=weights(), **TOLERANCE)
    assert isinstance(after.graph.initializers["w.winograd"].const_value, ir.LazyTensor)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (convolution(attributes="kernel_shape = [3, 3]", out="n, 256, h, w"), "no padding of 1"),
        (convolution(attributes=f"{PADDED}, strides = [2, 2]", out="n, 256, h, w"), "strides"),
        (
            convolution(attributes="kernel_shape = [3, 3], pads = [2, 2, 2, 2], dilations = [2, 2]"),
            "dilations",
        ),
        (convolution("n, 256, 16, 16"), "too small"),
        (convolution("n, 256, rows, columns"), "unknown"),
        (convolution("n, 256, 512, 512"), "too large"),
        (convolution(), "512 x 512 is too large"),
    ],
)
def test_others_stay_and_the_log_says_why(caplog, text, why):
    model = ir.from_onnx_text(text)
    for name, array in weights().items():
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    with caplog.at_level("DEBUG", logger="diffoundry"):
        assert not WinogradConvolution()(model).modified
    assert [node.op_type for node in model.graph] == ["Conv"]
    assert why in caplog.text


@pytest.mark.parametrize(
    ("inner", "attributes", "kind", "channels", "why"),
    [
        (128, PADDED, "float", 128, "channels are too few"),
        (1, f"{PADDED}, group = 256", "float", 256, "not 3 x 3 over all channels"),
        (256, PADDED, "float16", 256, "no float32 initializer"),
    ],
)
def test_few_channels_groups_and_half_precision_stay(transform, ops, caplog, inner, attributes, kind, channels, why):
    dtype = np.float16 if kind == "float16" else np.float32
    x = np.random.default_rng(2).standard_normal((1, channels, 32, 32)).astype(dtype)
    text = convolution(f"n, {channels}, height, width", "n, 256, height, width", attributes, inner, kind)
    fitting = {name: array.astype(dtype) for name, array in weights(inner).items()}
    with caplog.at_level("DEBUG", logger="diffoundry"):
        after = transform(text, OfLatents(), {"x": x}, weights=fitting, modified=False)
    assert ops(after) == ["Conv"]
    assert why in caplog.text
