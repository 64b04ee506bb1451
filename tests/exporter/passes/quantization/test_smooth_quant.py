"""Smoothing: the network stays the same, and outliers go where they do not hurt."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from diffoundry.exporter.passes.quantize import Quantize
from diffoundry.exporter.passes.smooth_quant import SmoothQuant, smoothable, smoothing_factors

LINEAR = frozenset({"to_q", "to_k"})


@pytest.fixture
def largest(toy):
    return {"t": np.abs(toy.tensors["t"]).max(axis=(0, 1))}


def factors_of(toy, largest, strength: float = 0.5) -> dict[str, np.ndarray]:
    return smoothing_factors(toy.network().graph, dict.fromkeys(LINEAR, strength), largest)


def test_only_norms_that_feed_layers_alone_can_be_smoothed(toy):
    assert {name: [site.name for site in sites] for name, sites in smoothable(toy.network().graph).items()} == {
        "t": ["to_q", "to_k"]
    }
    model = toy.network()
    norm = next(node for node in model.graph if node.name == "norm")
    model.graph.outputs.append(norm.outputs[0])
    assert smoothable(model.graph) == {}


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_the_float_network_stays_the_same(toy, largest, strength):
    model = toy.network()
    assert SmoothQuant(factors=factors_of(toy, largest, strength))(model).modified
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_allclose(toy.run(model)[0], toy.run(toy.network())[0], rtol=1e-4, atol=1e-4)
    assert [node.op_type for node in model.graph] == [node.op_type for node in toy.network().graph]


def test_factors_are_those_of_the_paper(toy, largest):
    weights = [toy.network().graph.initializers[name].const_value.numpy() for name in ("to_q_w", "to_k_w")]
    per_channel = np.maximum(*(np.abs(weight).max(axis=1) for weight in weights))
    expected = largest["t"] ** 0.7 / per_channel**0.3
    found = factors_of(toy, largest, 0.7)["t"]
    np.testing.assert_allclose(found / found[0], expected / expected[0], rtol=1e-6)
    assert np.log(found).mean() == pytest.approx(0, abs=1e-12)


def test_with_all_strength_every_channel_of_the_activation_is_equally_large(toy, largest):
    model = toy.network()
    SmoothQuant(factors=factors_of(toy, largest, 1.0))(model)
    norm = next(node for node in model.graph if node.name == "norm")
    model.graph.outputs.append(norm.outputs[0])
    channels = np.abs(toy.run(model)[1]).max(axis=(0, 1))
    np.testing.assert_allclose(channels, channels.mean(), rtol=1e-3)


def test_an_outlier_channel_costs_less_after_smoothing(toy):
    """The paper's case: one channel a hundred times as large as the others."""

    def network() -> ir.Model:
        model = toy.network()
        scale = model.graph.initializers["norm_w"].const_value.numpy().copy()
        scale[3] = 100 * np.abs(scale).max()
        model.graph.initializers["norm_w"].const_value = ir.tensor(scale, name="norm_w")
        norm = next(node for node in model.graph if node.name == "norm")
        model.graph.outputs.append(norm.outputs[0])
        return model

    errors = []
    before, t = toy.run(network())
    for strength in (None, 0.5):
        model, channels = network(), np.abs(t).max(axis=(0, 1))
        model.graph.outputs.pop()
        factors = np.ones(20)
        if strength is not None:
            factors = smoothing_factors(model.graph, dict.fromkeys(LINEAR, strength), {"t": channels})["t"]
            SmoothQuant(factors={"t": factors})(model)
        limits = float((t / factors).min()), float((t / factors).max())
        Quantize(nodes=LINEAR, activations="int8", ranges={"t": limits})(model)
        errors.append(float(np.square(toy.run(model)[0] - before).mean()))
    assert errors[1] < 0.2 * errors[0]


def test_layers_that_share_a_norm_are_smoothed_alike_or_not_at_all(toy, largest):
    assert smoothing_factors(toy.network().graph, {"to_q": 0.5, "to_k": 0.25}, largest) == {}
    assert smoothing_factors(toy.network().graph, {"to_q": 0.5}, largest) == {}


def test_a_weight_that_others_read_too_is_copied(toy, largest):
    model = toy.network()
    other = ir.node("Identity", [model.graph.initializers["to_q_w"]], name="other", version=23)
    other.outputs[0].name, other.outputs[0].type = "seen", ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(other)
    model.graph.outputs.append(other.outputs[0])
    SmoothQuant(factors=factors_of(toy, largest))(model)
    expected = toy.network().graph.initializers["to_q_w"].const_value.numpy()
    np.testing.assert_array_equal(toy.run(model)[1], expected)


def test_without_factors_it_does_not_fire(toy):
    assert not SmoothQuant(factors={})(toy.network()).modified
    assert not SmoothQuant(factors={"a": np.ones(8)})(toy.network()).modified
