"""Quantized graphs: the rules of each profile, and their numbers against NumPy, ONNX's reference and ONNX Runtime."""

import collections

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from diffoundry.exporter.passes import quantize_weights
from diffoundry.exporter.passes.half_precision import HalfPrecision
from diffoundry.exporter.passes.quantizable import quantizable
from diffoundry.exporter.passes.quantize import Quantize
from diffoundry.runtime.errors import ConfigError


@pytest.fixture
def quantized(toy):
    """The toy network with `Quantize(**options)`; all its nodes unless `nodes` says otherwise."""

    def make(**options) -> ir.Model:
        model = toy.network()
        options = {"nodes": frozenset(toy.nodes), "ranges": toy.ranges, **options}
        result = Quantize(**options)(model)
        assert result.modified is bool(options["nodes"])
        assert result.model is model
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        return model

    return make


def site_of(model: ir.Model, name: str):
    return next(site for site in quantizable(model.graph) if site.name == name)


def constant(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


def test_every_weighted_node_is_found_and_its_axes_are_right(toy):
    sites = {site.name: site for site in quantizable(toy.network().graph)}
    assert list(sites) == list(toy.nodes)
    assert {name: (site.channel_axis, site.input_axis) for name, site in sites.items()} == {
        "conv": (0, 1), "point": (0, 1), "to_q": (1, 0), "to_k": (1, 0), "gemm": (0, 1),
    }  # fmt: skip


def test_products_of_activations_and_tiny_weights_are_left_alone(toy):
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[2, 16] x, float[16, 2] z, float[2, 8] small) => (float[2, 2] y, float[2, 8] v, float[16, 16] u)
    {
        [both] y = MatMul(x, z)
        [small] v = MatMul(y, small)
        [turned] u = Gemm <transA = 1> (x, x)
    }
    """
    model = ir.from_onnx_text(text)
    toy.set_weight(model, model.graph.inputs[2], np.ones((2, 8), np.float32))
    assert quantizable(model.graph) == []


def test_depthwise_convolutions_are_left_alone(toy):
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[1, 32, 8, 8] x, float[32, 1, 3, 3] filter, float[32, 16, 1, 1] halves)
        => (float[1, 32, 6, 6] y, float[1, 32, 8, 8] z)
    {
        [filter] y = Conv <group = 32> (x, filter)
        [halves] z = Conv <group = 2> (x, halves)
    }
    """
    model = ir.from_onnx_text(text)
    for shape in ((32, 1, 3, 3), (32, 16, 1, 1)):
        toy.set_weight(model, model.graph.inputs[1], np.ones(shape, np.float32))
    assert [site.name for site in quantizable(model.graph)] == ["halves"]


@pytest.mark.parametrize("kind", ["int8", "uint8", "fp8"])
def test_one_rounding_for_all_that_read_a_tensor_and_none_where_nothing_was_chosen(kind, ops, quantized):
    model = quantized(activations=kind, weights="fp8" if kind == "fp8" else "int8")
    counts = collections.Counter(ops(model))
    assert counts["QuantizeLinear"] == 4  # of a, c, t and d
    assert counts["DequantizeLinear"] == 4 + 5
    nodes = {node.name: node for node in model.graph}
    assert nodes["to_q"].inputs[0] is nodes["to_k"].inputs[0]
    assert nodes["residual"].inputs[0].name == "c"  # the residual goes on in float
    assert nodes["conv"].inputs[2].name == "conv_b"  # and so does the bias
    assert model.graph.initializers["conv_b"].dtype == ir.DataType.FLOAT


def test_int8_activations_are_symmetric_with_the_zero_point_zero(quantized, toy):
    model, limits = quantized(activations="int8"), toy.ranges
    for name in "actd":
        assert constant(model, f"{name}_zero_point").dtype == np.int8
        assert constant(model, f"{name}_zero_point") == 0
        largest = max(abs(limit) for limit in limits[name])
        assert constant(model, f"{name}_scale") == pytest.approx(largest / 127)


def test_uint8_activations_use_all_256_numbers_and_zero_is_one_of_them(quantized, toy):
    model, limits = quantized(activations="uint8"), toy.ranges
    for name in "actd":
        scale, zero = constant(model, f"{name}_scale"), constant(model, f"{name}_zero_point")
        low, high = limits[name]
        assert zero.dtype == np.uint8
        assert scale == pytest.approx((high - low) / 255)
        assert (0 - float(zero)) * scale == pytest.approx(low, abs=0.51 * float(scale))


def test_a_range_on_one_side_of_zero_is_widened_to_it(quantized, toy):
    ranges = toy.ranges | {"a": (0.5, 2.0), "t": (-3.0, -1.0)}
    model = quantized(activations="uint8", ranges=ranges)
    assert (constant(model, "a_scale"), constant(model, "a_zero_point")) == (pytest.approx(2 / 255), 0)
    assert (constant(model, "t_scale"), constant(model, "t_zero_point")) == (pytest.approx(3 / 255), 255)


def test_int8_weights_are_symmetric_with_one_scale_an_output_channel(quantized, toy):
    model, before = quantized(), toy.network()
    for name in toy.nodes:
        site = site_of(before, name)
        weight = site.weight_value.const_value.numpy()
        stored = constant(model, f"{site.weight_value.name}_int8")
        scales = constant(model, f"{site.weight_value.name}_int8_scale")
        others = tuple(axis for axis in range(weight.ndim) if axis != site.channel_axis)
        np.testing.assert_allclose(scales, np.abs(weight).max(axis=others) / 127, rtol=1e-6)
        assert (np.abs(stored.astype(int)).max(axis=others) == 127).all()
        node = next(n for n in model.graph if n.op_type == "DequantizeLinear" and stored.shape == n.outputs[0].shape)
        assert len(node.inputs) == 2  # no zero point is zero


def test_int4_weights_have_blocks_along_the_input_axis(quantized, toy):
    model = quantized(weights="int4", block=8)
    for name, shape in {"conv": (20, 1, 3, 3), "point": (20, 4, 1, 1), "to_q": (4, 24), "gemm": (32, 3)}.items():
        site = site_of(toy.network(), name)
        weight_name = site.weight_value.name
        # 20 input channels have no blocks of 8: the longest that divides them is 5.
        expected = tuple(
            size // (8 if size % 8 == 0 else 5) if axis == site.input_axis else size
            for axis, size in enumerate(site.weight_value.const_value.shape.numpy())
        )
        assert expected == shape
        assert constant(model, f"{weight_name}_int4_scale").shape == shape
        assert constant(model, f"{weight_name}_int4").dtype == ml_dtypes.int4
        assert (constant(model, f"{weight_name}_int4_scale") > 0).all()


@pytest.mark.parametrize("profile", ["int8", "int4", "fp8"])
def test_large_weights_are_converted_in_pieces_to_the_same_numbers(monkeypatch, profile, quantized):
    whole = ir.to_proto(quantized(weights=profile)).SerializeToString()
    monkeypatch.setattr(quantize_weights, "_PIECE", 20)
    assert ir.to_proto(quantized(weights=profile)).SerializeToString() == whole


def test_fallback_weights_are_int8_among_int4(quantized):
    model = quantized(weights="int4", fallback=frozenset({"to_q"}))
    assert "to_q_w_int8" in model.graph.initializers
    assert "to_k_w_int4" in model.graph.initializers


def numpy_network(toy, model: ir.Model, rounded) -> np.ndarray:
    """The network in NumPy with the weights of `model` read back by hand, and activations that `rounded` rounds."""
    weights = {}
    for name in toy.nodes:
        site = site_of(toy.network(), name)
        base = site.weight_value.name
        stored, kind = next(
            (constant(model, f"{base}_{k}"), k)
            for k in ("int8", "int4", "float8e4m3fn")
            if f"{base}_{k}" in model.graph.initializers
        )
        scales = constant(model, f"{base}_{kind}_scale").astype(np.float64)
        if kind == "int4":
            repeat = stored.shape[site.input_axis] // scales.shape[site.input_axis]
            scales = np.repeat(scales, repeat, axis=site.input_axis)
        else:
            scales = scales.reshape([-1 if axis == site.channel_axis else 1 for axis in range(stored.ndim)])
        weights[name] = stored.astype(np.float64) * scales
    x = toy.feeds()["x"].astype(np.float64)
    a = rounded("a", x / (1 + np.exp(-x)))
    padded = np.pad(a, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    bias = constant(model, "conv_b").astype(np.float64)
    c = np.einsum("bihwkl,oikl->bohw", windows, weights["conv"]) + bias[:, None, None]
    p = np.einsum("bihw,oi->bohw", rounded("c", c), weights["point"][:, :, 0, 0])
    u = (c + p).reshape(2, 20, 36).transpose(0, 2, 1)
    u = (u - u.mean(axis=-1, keepdims=True)) / np.sqrt(u.var(axis=-1, keepdims=True) + 1e-5)
    t = rounded("t", u * constant(model, "norm_w") + constant(model, "norm_b"))
    m = t @ weights["to_q"] + t @ weights["to_k"]
    return rounded("d", m.mean(axis=0)) @ weights["gemm"].T + constant(model, "gemm_b")


def rounding(model: ir.Model, kind: str | None):
    def rounded(name: str, values: np.ndarray) -> np.ndarray:
        if kind is None:
            return values
        scale = float(constant(model, f"{name}_scale"))
        if kind == "fp8":
            units = np.clip(values / scale, -448, 448).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
            return units.astype(np.float64) * scale
        zero = int(constant(model, f"{name}_zero_point"))
        low, high = (0, 255) if kind == "uint8" else (-128, 127)
        return (np.clip(np.rint(values / scale) + zero, low, high) - zero) * scale

    return rounded


PROFILES = {
    "int8": {"activations": "int8"},
    "uint8": {"activations": "uint8"},
    "fp8": {"activations": "fp8", "weights": "fp8"},
    "int8-weights": {},
    "int4-weights": {"weights": "int4", "block": 8},
    "fp8-weights": {"weights": "fp8"},
}


def one_step_apart(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for a few activations that fell on the other side of a rounding boundary, one step of some hundred."""
    error = np.abs(found - expected)
    assert np.median(error) < 1e-5 * np.ptp(expected)
    assert error.max() < 0.02 * np.ptp(expected)


@pytest.mark.parametrize("profile", PROFILES)
def test_onnx_runtime_agrees_with_numpy_on_the_stored_numbers(profile, quantized, toy):
    options = PROFILES[profile]
    model = quantized(**options)
    (found,) = toy.run(model, toy.feeds())
    one_step_apart(found, numpy_network(toy, model, rounding(model, options.get("activations"))))


@pytest.mark.parametrize("profile", ["int8", "uint8", "int8-weights", "int4-weights"])
def test_onnx_runtime_agrees_with_the_reference(profile, quantized, toy):
    model = quantized(**PROFILES[profile])
    (expected,) = ReferenceEvaluator(ir.to_proto(model)).run(None, toy.feeds())
    one_step_apart(toy.run(model, toy.feeds())[0], expected)


@pytest.mark.parametrize(
    ("profile", "least"),
    [("int8", 30), ("uint8", 30), ("fp8", 22), ("int8-weights", 40), ("int4-weights", 18), ("fp8-weights", 25)],
)
def test_the_numbers_stay_near_those_of_the_float_network(profile, least, quantized, toy):
    (before,), (after,) = toy.run(toy.network(), toy.feeds()), toy.run(quantized(**PROFILES[profile]), toy.feeds())
    assert 10 * np.log10(np.square(before).mean() / np.square(after - before).mean()) > least


def test_fitted_block_scales_err_less_than_the_largest_weight_says(quantized, toy):
    weight = toy.network().graph.initializers["gemm_w"].const_value.numpy()
    model = quantized(weights="int4", block=8)
    scales = np.repeat(constant(model, "gemm_w_int4_scale"), 8, axis=1)
    fitted = constant(model, "gemm_w_int4").astype(np.float32) * scales
    blocks = weight.reshape(32, 3, 8)
    widest = np.maximum(blocks.max(axis=2) / 7, -blocks.min(axis=2) / 8)[..., None]
    plain = np.clip(np.rint(blocks / widest), -8, 7) * widest
    assert np.square(fitted - weight).sum() < 0.95 * np.square(plain.reshape(32, 24) - weight).sum()


def test_the_power_of_channels_moves_the_error_to_where_it_does_not_show(quantized, toy):
    rng = np.random.default_rng(0)
    power = np.where(rng.random(24) < 0.25, 100.0, 0.01)
    model = toy.network()
    weight = model.graph.initializers["gemm_w"].const_value.numpy()
    errors = []
    for known in ({}, {"d": power}):
        model = quantized(weights="int4", block=24, power=known)
        scales = np.repeat(constant(model, "gemm_w_int4_scale"), 24, axis=1)
        error = constant(model, "gemm_w_int4").astype(np.float32) * scales - weight
        errors.append(float((np.square(error) * power).sum()))
    assert errors[1] < 0.8 * errors[0]


def test_nodes_that_were_not_chosen_stay_as_they_were(ops, quantized):
    model = quantized(nodes=frozenset({"to_q"}), activations="uint8")
    nodes = {node.name: node for node in model.graph}
    assert nodes["to_q"].inputs[0].name == "t_dequantized"
    assert nodes["to_k"].inputs[0].name == "t"
    assert ops(model).count("QuantizeLinear") == 1


def test_with_nothing_chosen_it_does_not_fire(ops, quantized, toy):
    assert ops(quantized(nodes=frozenset())) == ops(toy.network())


def test_a_weight_that_two_nodes_share_is_stored_once(toy):
    model = toy.network()
    next(node for node in model.graph if node.name == "to_k").replace_input_with(1, model.graph.initializers["to_q_w"])
    Quantize(nodes=frozenset({"to_q", "to_k"}))(model)
    nodes = {node.name: node for node in model.graph}
    assert nodes["to_q"].inputs[1] is nodes["to_k"].inputs[1]


def test_outputs_of_convolutions_are_rounded_for_all_their_readers(quantized):
    model = quantized(activations="uint8", outputs=True)
    nodes = {node.name: node for node in model.graph}
    assert nodes["residual"].inputs[0].name == "c_dequantized"
    assert nodes["point"].inputs[0] is nodes["residual"].inputs[0]  # one rounding, not one after the other
    assert nodes["residual"].inputs[1].name == "p_dequantized"
    assert nodes["qk"].inputs[0].name == "q"  # linear layers give floats


def test_onnx_runtime_makes_int8_kernels_of_all_that_is_quantized_with_outputs(quantized, tmp_path):
    """The reason for `outputs`: nothing is converted back to float in front of a convolution or a linear layer."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    model = quantized(activations="uint8", outputs=True)
    assert model.graph.initializers["gemm_w"].dtype == ir.DataType.FLOAT  # for Gemm it has none
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert found["QLinearConv"] == 2
    assert found["MatMulIntegerToFloat"] == 2
    assert not found["Conv"] + found["MatMul"]


def test_a_convolution_whose_output_leaves_the_graph_stays_float_where_outputs_are_rounded(ops, toy):
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[1, 8, 4, 4] x, float[8, 8, 3, 3] w) => (float[1, 8, 2, 2] y)
    { [last] y = Conv (x, w) }
    """
    model = ir.from_onnx_text(text)
    toy.set_weight(model, model.graph.inputs[1], np.ones((8, 8, 3, 3), np.float32))
    Quantize(nodes=frozenset({"last"}), activations="uint8", ranges={"x": (-1, 1)}, outputs=True)(model)
    assert ops(model) == ["Conv"]


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
@pytest.mark.parametrize("profile", ["int8-weights", "int4-weights", "uint8"])
def test_scales_are_numbers_of_the_float_type_before_they_divide(dtype, profile, quantized):
    model = quantized(**PROFILES[profile], floats=dtype)
    for value in model.graph.initializers.values():
        if value.name.endswith("_scale"):
            array = value.const_value.numpy()
            np.testing.assert_array_equal(array.astype(dtype.numpy()).astype(np.float32), array)
    weights = {n: v.const_value.numpy() for n, v in model.graph.initializers.items() if n.endswith(("_int8", "_int4"))}
    HalfPrecision(dtype=dtype)(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for name, before in weights.items():
        np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), before)
        assert model.graph.initializers[f"{name}_scale"].dtype == dtype


def test_fp16_around_int8_is_near_the_float_network(quantized, toy):
    model = quantized(activations="uint8", floats=ir.DataType.FLOAT16)
    HalfPrecision()(model)
    (before,), (after,) = toy.run(toy.network(), toy.feeds()), toy.run(model, toy.feeds())
    assert 10 * np.log10(np.square(before).mean() / np.square(after - before).mean()) > 33


def test_embedding_tables_are_quantized_by_row(toy):
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (int64[2, 3] ids, float[40, 16] table) => (float[2, 3, 16] y)
    { [look_up] y = Gather (table, ids) }
    """
    model = ir.from_onnx_text(text)
    table = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    toy.set_weight(model, model.graph.inputs[1], table)
    Quantize(nodes=frozenset({"look_up"}), weights="int4")(model)
    assert model.graph.initializers["table_int8"].dtype == ir.DataType.INT8
    ids = np.array([[0, 39, 7], [1, 1, 2]])
    (found,) = toy.run(model, {"ids": ids})
    np.testing.assert_allclose(found, table[ids], atol=np.abs(table).max() / 127)


def test_the_same_choice_gives_the_same_bytes(quantized):
    first, second = (ir.to_proto(quantized(activations="uint8", weights="int4")) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_a_node_that_is_not_there_is_refused(quantized):
    with pytest.raises(ConfigError, match=r"got the node 'nowhere', expected one with a float weight.*calibrate again"):
        quantized(nodes=frozenset({"nowhere", "conv"}))


def test_a_missing_range_is_refused(quantized):
    with pytest.raises(ConfigError, match=r"got no range of 'a', expected one for every activation.*calibrate again"):
        quantized(activations="int8", ranges={})


def test_an_old_opset_is_refused(toy):
    model = toy.network()
    model.graph.opset_imports[""] = 20
    with pytest.raises(ir.passes.PreconditionError, match="opset 20, expected 21 or later"):
        Quantize(nodes=frozenset(toy.nodes))(model)
