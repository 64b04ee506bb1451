"""Graphs with switches: each position gives the numbers of the graph that was built for it."""

import itertools

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from diffoundry.exporter.passes.quantization_switches import SWITCHES, RoundFloats, SwitchQuantized
from diffoundry.exporter.passes.quantize import Quantize

PROFILES = {
    "uint8": {"activations": "uint8"},
    "uint8, outputs": {"activations": "uint8", "outputs": True},
    "int4-weights": {"weights": "int4", "block": 8},
}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_position_of_the_switches_is_the_graph_with_those_nodes_quantized(toy, profile):
    options = PROFILES[profile] | {"ranges": toy.ranges}
    gated = toy.network()
    Quantize(nodes=frozenset(toy.nodes), **options)(gated)
    pass_ = SwitchQuantized(nodes=toy.nodes, original=toy.network(), outputs=bool(options.get("outputs")))
    assert pass_(gated).modified
    onnx.checker.check_model(ir.to_proto(gated), full_check=True)
    for states in itertools.product([False, True], repeat=len(toy.nodes)):
        plain = toy.network()
        chosen = frozenset(name for name, state in zip(toy.nodes, states, strict=True) if state)
        Quantize(nodes=chosen, **options)(plain)
        (expected,) = toy.run(plain)
        (found,) = toy.run(gated, toy.feeds() | {SWITCHES: np.array(states)})
        np.testing.assert_array_equal(found, expected, err_msg=str(chosen))


def test_all_switches_off_is_the_float_network(toy):
    gated = toy.network()
    Quantize(nodes=frozenset(toy.nodes), activations="int8", ranges=toy.ranges)(gated)
    SwitchQuantized(nodes=toy.nodes, original=toy.network())(gated)
    (found,) = toy.run(gated, toy.feeds() | {SWITCHES: np.zeros(len(toy.nodes), bool)})
    np.testing.assert_array_equal(found, toy.run(toy.network())[0])


CHAIN = """
<ir_version: 10, opset_import: ["": 23]>
g (float[64] x, float[64] w) => (float[64] y)
{
    [one] a = Mul(x, w)
    [two] b = Add(a, w)
    [three] y = Mul(b, b)
}
"""


def chain(toy) -> ir.Model:
    model = ir.from_onnx_text(CHAIN)
    toy.set_weight(model, model.graph.inputs[1], np.random.default_rng(0).standard_normal(64).astype(np.float32))
    ShapeInferencePass()(model)
    return model


def rounded(values: np.ndarray, state: bool, dtype: type) -> np.ndarray:
    return values.astype(dtype).astype(np.float32) if state else values


@pytest.mark.parametrize(
    ("dtype", "kind"), [(ir.DataType.FLOAT16, np.float16), (ir.DataType.BFLOAT16, ml_dtypes.bfloat16)]
)
def test_switched_groups_round_their_inputs_and_outputs(toy, dtype, kind):
    model = chain(toy)
    RoundFloats(groups=[["one"], ["two", "three"]], dtype=dtype)(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    x = np.random.default_rng(1).standard_normal(64).astype(np.float32)
    w = chain(toy).graph.initializers["w"].const_value.numpy()
    for one, two in itertools.product([False, True], repeat=2):
        a = rounded(rounded(x, one, kind) * rounded(w, one, kind), one, kind)
        b = rounded(rounded(a, two, kind) + rounded(w, two, kind), two, kind)
        (found,) = toy.run(model, {"x": x, SWITCHES: np.array([one, two])})
        np.testing.assert_array_equal(found, b * b, err_msg=f"{one}, {two}")


def test_without_switches_the_groups_are_rounded_for_good(toy):
    model = chain(toy)
    RoundFloats(groups=[["two"]], switched=False)(model)
    assert [value.name for value in model.graph.inputs] == ["x"]
    x = np.random.default_rng(1).standard_normal(64).astype(np.float32)
    w = chain(toy).graph.initializers["w"].const_value.numpy()
    b = rounded(rounded(x * w, True, np.float16) + rounded(w, True, np.float16), True, np.float16)
    np.testing.assert_array_equal(toy.run(model, {"x": x})[0], b * b)


def test_values_beyond_the_range_become_infinite_for_a_rounded_reader_too(toy):
    model = chain(toy)
    RoundFloats(groups=[["two"]], switched=False)(model)
    x = np.full(64, 1e9, np.float32)
    assert np.isinf(toy.run(model, {"x": x})[0]).all()  # `one` itself was not rounded
