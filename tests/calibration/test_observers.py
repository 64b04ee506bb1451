"""Observers against brute force on all values; grids against the types of ml_dtypes and ONNX's reference."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from diffoundry.calibration.grids import GRIDS, round_e4m3
from diffoundry.calibration.histogram import Histogram
from diffoundry.calibration.observers import OBSERVERS, cut


def silu(seed: int = 0) -> np.ndarray:
    """Inputs of convolutions: SiLU of normal numbers, with a few outliers."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(60_000)
    x[:6] *= 12
    return (x / (1 + np.exp(-x))).astype(np.float32)


def symmetric(seed: int = 0) -> np.ndarray:
    """Inputs of linear layers: a distribution with heavy tails around zero."""
    return np.random.default_rng(seed).standard_t(4, 60_000).astype(np.float32)


def observe(name: str, values: np.ndarray, kind: str) -> tuple[float, float]:
    histogram = Histogram()
    for piece in np.array_split(values, 7):
        histogram.add(piece)
    return cut(name, histogram, (float(values.min()), float(values.max())), kind)


def error(values: np.ndarray, limits: tuple[float, float], kind: str) -> float:
    return float(np.mean(np.square(GRIDS[kind](values.astype(np.float64), *limits) - values)))


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("make", [silu, symmetric])
def test_minmax_is_the_extremes(make, kind):
    assert observe("minmax", make(), kind) == (make().min(), make().max())


@pytest.mark.parametrize("make", [silu, symmetric])
def test_percentile_leaves_one_in_a_hundred_thousand_outside(make):
    values = np.concatenate([make(seed) for seed in range(30)])
    histogram = Histogram()
    histogram.add(values)
    low, high = observe("percentile", values, "int8")
    count = len(values) * 1e-5
    assert (values > high + histogram.width).sum() <= count <= (values > high - histogram.width).sum()
    assert (values < low - histogram.width).sum() <= count <= (values < low + histogram.width).sum()


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("make", [silu, symmetric])
def test_mse_is_as_good_as_the_best_of_a_fine_search_over_all_values(make, kind):
    values = make()
    low, high = float(values.min()), float(values.max())
    parts = np.linspace(0.3, 1, 141)
    sides = [(part, part) for part in parts]
    if kind == "uint8":
        sides += [(1, part) for part in parts] + [(part, 1) for part in parts]
    best = min(error(values, (low * left, high * right), kind) for left, right in sides)
    assert error(values, observe("mse", values, kind), kind) <= 1.08 * best


@pytest.mark.parametrize("make", [silu, symmetric])
def test_mse_cuts_outliers_off_and_pays_for_it(make):
    values = make()
    limits = observe("mse", values, "int8")
    assert max(-limits[0], limits[1]) < 0.95 * np.abs(values).max()
    assert error(values, limits, "int8") < 0.9 * error(values, observe("minmax", values, "int8"), "int8")


def divergence(values: np.ndarray, limits: tuple[float, float], kind: str, edges: np.ndarray) -> float:
    """Kullback-Leibler divergence as in Migacz's slides, written out over bins."""
    counts = np.histogram(values, bins=edges)[0].astype(np.float64)
    centers = (edges[:-1] + edges[1:]) / 2
    inside = [i for i in range(len(counts)) if counts[i] and limits[0] <= centers[i] <= limits[1]]
    p = {i: counts[i] for i in inside}
    p[inside[0]] += counts[centers < limits[0]].sum()
    p[inside[-1]] += counts[centers > limits[1]].sum()
    levels: dict[float, list[int]] = {}
    for i in inside:
        levels.setdefault(float(GRIDS[kind](centers[i : i + 1], *limits)[0]), []).append(i)
    q = {i: sum(counts[j] for j in group) / len(group) for group in levels.values() for i in group}
    total_p, total_q = sum(p.values()), sum(q.values())
    return sum(p[i] / total_p * np.log(p[i] / total_p / (q[i] / total_q)) for i in inside)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("make", [silu, symmetric])
def test_entropy_is_the_least_divergence_of_all_candidates(make, kind):
    values = make()
    histogram = Histogram()
    histogram.add(values)
    found = divergence(values, observe("entropy", values, kind), kind, histogram.edges)
    low, high = float(values.min()), float(values.max())
    largest = max(-low, high)
    for part in (1, 0.9, 0.75, 0.6, 0.5, 0.4):
        other = (low * part, high * part) if kind == "uint8" else (max(low, -largest * part), min(high, largest * part))
        assert found <= divergence(values, other, kind, histogram.edges) + 1e-9


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("kind", GRIDS)
def test_a_tensor_of_zeros_has_limits_of_zero(name, kind):
    assert observe(name, np.zeros(100, np.float32), kind) == (0, 0)
    np.testing.assert_array_equal(GRIDS[kind](np.zeros(3), 0.0, 0.0), np.zeros(3))


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("make", [silu, symmetric])
def test_limits_are_never_wider_than_the_values(name, make):
    low, high = observe(name, make(), "uint8")
    assert make().min() <= low < high <= make().max()


def test_e4m3_is_that_of_ml_dtypes_with_saturation():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(20_000) * 10.0 ** rng.integers(-5, 4, 20_000)
    edges = [448, 449, 463.9, 464, 1e6, 0, -0.0, 2**-9, 2**-10, 1.01 * 2**-10, 1.5 * 2**-9, 2**-6]
    values = np.concatenate([values, edges, -np.array(edges)])
    expected = np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    np.testing.assert_array_equal(round_e4m3(values), expected)


@pytest.mark.parametrize(("kind", "zero_type"), [("int8", np.int8), ("uint8", np.uint8)])
def test_grids_are_those_of_onnx(kind, zero_type):
    values, low, high = symmetric()[:2000], -5.0, 9.0
    scale = np.float32(14 / 255 if kind == "uint8" else 9 / 127)
    zero = zero_type(round(5 / scale)) if kind == "uint8" else zero_type(0)
    text = f"""<ir_version: 10, opset_import: ["": 21]>
    g (float[2000] x, float s, {kind} z) => (float[2000] y) {{
        q = QuantizeLinear(x, s, z)
        y = DequantizeLinear(q, s, z)
    }}"""
    reference = ReferenceEvaluator(onnx.parser.parse_model(text))
    (expected,) = reference.run(None, {"x": values, "s": np.array(scale), "z": np.array(zero)})
    found = GRIDS[kind](values.astype(np.float64), low, high)
    # The scale in float32 may turn a tie around: one step in a few of 2000 numbers.
    differing = np.abs(found - expected) > 1e-5
    assert differing.sum() <= 2
