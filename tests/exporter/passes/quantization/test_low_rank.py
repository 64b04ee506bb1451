"""The branch of low rank: the network stays the same, and what is left is easier to quantize."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from diffoundry.exporter.passes.low_rank import LowRank
from diffoundry.exporter.passes.quantize import Quantize


@pytest.mark.parametrize("name", ["conv", "point", "to_q", "gemm"])
def test_the_float_network_stays_the_same(toy, ops, name):
    model = toy.network()
    assert LowRank(ranks={name: 3})(model).modified
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_allclose(toy.run(model)[0], toy.run(toy.network())[0], rtol=1e-4, atol=1e-4)
    kind = "Conv" if name in ("conv", "point") else "MatMul"
    assert sorted(ops(model)) == sorted([*ops(toy.network()), kind, kind, "Add"])


def test_the_branch_is_the_best_product_of_its_rank(toy):
    """Eckart and Young: the rest has exactly the singular values that are left."""
    model = toy.network()
    weight = model.graph.initializers["to_q_w"].const_value.numpy()
    LowRank(ranks={"to_q": 4})(model)
    rest = model.graph.initializers["to_q_w_rest_4"].const_value.numpy()
    left = np.linalg.svd(weight, compute_uv=False)[4:]
    np.testing.assert_allclose(np.linalg.svd(rest, compute_uv=False)[: len(left)], left, rtol=1e-4)


def test_with_known_power_the_error_that_shows_is_least(toy):
    """Among products of the rank, the one of the weighted matrix: what is left shows less than with the plain one."""
    power = 10.0 ** np.random.default_rng(0).uniform(-3, 3, 24)
    shows = []
    for known in ({}, {"d": power}):
        model = toy.network()
        LowRank(ranks={"gemm": 4}, power=known)(model)
        rest = model.graph.initializers["gemm_w_rest_4"].const_value.numpy()
        shows.append(float((np.square(rest) * power).sum()))
    assert shows[1] < 0.5 * shows[0]


def test_an_outlier_in_the_weight_costs_less_beside_a_branch(toy):
    """The paper's case: a few weights that make the scales of int4 coarse are of low rank."""

    def network() -> ir.Model:
        model = toy.network()
        weight = model.graph.initializers["to_q_w"].const_value.numpy().copy()
        weight += 30 * np.outer(np.eye(20)[5], np.sign(weight[5]))
        model.graph.initializers["to_q_w"].const_value = ir.tensor(weight.astype(np.float32), name="to_q_w")
        return model

    (before,) = toy.run(network())
    errors = []
    for ranks in ({}, {"to_q": 1}):
        model = network()
        LowRank(ranks=ranks)(model)
        Quantize(nodes=frozenset({"to_q"}), weights="int4", block=20)(model)
        errors.append(float(np.square(toy.run(model)[0] - before).mean()))
    assert errors[1] < 0.05 * errors[0]


def test_the_narrow_weights_stay_float_when_the_rest_is_quantized(toy):
    model = toy.network()
    LowRank(ranks={"to_q": 2, "conv": 2})(model)
    Quantize(nodes=frozenset({"to_q", "conv"}), activations="uint8", ranges=toy.ranges)(model)
    nodes = {node.name: node for node in model.graph}
    assert nodes["to_q/down"].inputs[0].name == "t"
    assert nodes["to_q"].inputs[0].name == "t_dequantized"
    assert nodes["conv/down"].inputs[1].const_value.numpy().shape == (2, 8, 3, 3)
    assert nodes["conv/up"].inputs[1].const_value.numpy().shape == (20, 2, 1, 1)


def test_a_rank_that_saves_nothing_does_not_fire(toy, ops):
    model = toy.network()
    assert not LowRank(ranks={"to_q": 20, "nowhere": 2})(model).modified
    assert ops(model) == ops(toy.network())
