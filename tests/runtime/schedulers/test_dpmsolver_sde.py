"""DPM-Solver++ for the SDE: what torch's last bits do to its noise, and diffusers as it is installed."""

import dataclasses

import numpy as np
import pytest
from scheduler_harness.side_by_side import error_beyond, run_ours, run_theirs

from diffoundry.runtime.schedulers.arithmetic.brownian import BrownianPath

EPS = float(np.finfo(np.float32).eps)
NAME = "DPMSolverSDEScheduler"


@pytest.fixture(scope="module")
def installed(all_declarations):
    """Its declaration, for runs of diffusers with torch's own logarithms and exponentials."""
    declaration = next(declaration for declaration in all_declarations if declaration.name == NAME)
    return dataclasses.replace(declaration, rounded_steps=False)


def test_the_last_bit_of_a_level_moves_the_path():
    """W grows by noise of deviation sqrt(dt): the last bit of 14.6, a millionth, moves it by a thousandth."""
    path, level = BrownianPath(0.03, 20.0, (4096,), 3), np.float32(14.6)
    moved = path.increment(1.0, float(np.nextafter(level, np.float32(20)))) - path.increment(1.0, float(level))
    assert 5e-4 < moved.std() < 2e-3
    np.testing.assert_allclose(moved.std(), np.sqrt(1e-6), rtol=0.1)


def test_steps_are_those_of_diffusers_as_installed(installed):
    """Most runs to 1e-4; where a torch function is off by its last bit, to what that does to the noise."""
    errors = []
    for case in installed.few_cases:
        theirs, ours = run_theirs(installed, case), run_ours(installed, case)
        runs = zip(ours.samples, theirs.samples, theirs.peaks, strict=True)
        errors.append(max(error_beyond(got, expected, 16 * EPS * peak) for got, expected, peak in runs))
    assert max(errors) <= 1e-2
    assert np.median(errors) <= 1e-4
