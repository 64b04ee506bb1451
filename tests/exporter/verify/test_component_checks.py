"""Checks of a component's outputs: the worst case counts, and incomparable outputs fail."""

import math

import numpy as np
import pytest

from diffoundry.exporter.verify.checks.components import compare_component
from diffoundry.exporter.verify.checks.gates import GATES
from diffoundry.exporter.verify.reference.component_cases import ComponentCase
from diffoundry.runtime.errors import InputError

_TRUE = np.float32([-1, 0, 1, 2])


class _Components:
    """Gives the output that was put under the feed's first value."""

    def __init__(self, outputs):
        self.outputs = outputs

    def run(self, name, feeds):
        assert name == "unet"
        output = self.outputs[int(feeds["x"][0])]
        if isinstance(output, Exception):
            raise output
        return output


def _compare(*outputs):
    cases = [
        ComponentCase(component="unet", label=f"case {i}", feeds={"x": np.float32([i])}, expected={"y": _TRUE})
        for i in range(len(outputs))
    ]
    results, checks = compare_component(_Components(outputs), "unet", cases, GATES["fp32"])
    return results, {check.measure: (check.measured, check.passed, check.detail) for check in checks}


def _y(error):
    return {"y": _TRUE + np.float32([0, 0, error, 0])}


def test_every_measure_is_that_of_its_worst_case():
    results, checks = _compare(_y(0), _y(0.75), _y(0.25))
    assert [result.case for result in results] == ["case 0", "case 1", "case 2"]
    assert checks["max abs error / range"] == (0.25, False, "case 1")
    assert checks["relative RMS error"] == (pytest.approx(0.75 / math.sqrt(6)), False, "case 1")
    assert checks["cosine"] == (pytest.approx(6.75 / math.sqrt(6 * (5 + 1.75**2))), False, "case 1")
    assert checks["PSNR, dB"] == (pytest.approx(20 * math.log10(3 / 0.375)), False, "case 1")


def test_a_nan_in_one_case_is_worse_than_any_number():
    _, checks = _compare(_y(math.nan), _y(1000))
    for measured, passed, case in checks.values():
        assert math.isnan(measured)
        assert (passed, case) == (False, "case 0")


def test_equal_outputs_pass():
    _, checks = _compare(_y(0), _y(0))
    assert len(checks) == 4
    assert all(passed for _, passed, _ in checks.values())


@pytest.mark.parametrize(
    ("output", "measure", "fault"),
    [
        ({"z": _TRUE}, "shape, case 0", "missing, expected (4,)"),
        ({"y": _TRUE[:3]}, "shape, case 0", "(3,), expected (4,)"),
        (InputError("component 'unet': got the inputs x"), "inputs, case 0", "component 'unet': got the inputs x"),
    ],
)
def test_incomparable_outputs_fail(output, measure, fault):
    results, checks = _compare(output)
    assert results == []
    assert checks == {measure: (fault, False, "")}


def test_a_component_without_a_reference_fails():
    assert _compare() == ([], {"compared": ("no reference for it", False, "")})
