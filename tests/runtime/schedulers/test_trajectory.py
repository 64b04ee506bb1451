"""Whole runs against diffusers: timesteps and sigmas exactly, and the sample after every step."""

from functools import partial

import numpy as np
import pytest
from scheduler_harness.side_by_side import (
    error_beyond,
    init_noise_sigma,
    make_theirs,
    plan_ours,
    plan_theirs,
    relative_error,
    run_ours,
    run_theirs,
    ulp_distance,
)
from scheduler_harness.tables import check_each

EPS = float(np.finfo(np.float32).eps)
EXACT_EPS = float(np.finfo(np.float64).eps)


def _check_runs(declaration, cases, check):
    """Check every case; random ones count only where diffusers' own float32 run is that of its float64 run.

    The cases of the covering array are chosen so that it is, by `keep` of the declaration.
    """

    def check_sound(case):
        try:
            check(declaration, case)
        except AssertionError:
            if not any(case is further for further in declaration.further_cases) or _is_sound(declaration, case):
                raise

    check_each(cases, check_sound)


def _is_sound(declaration, case):
    rounded, exact = (run_theirs(declaration, case, double=double).samples for double in (False, True))
    finite = all(np.isfinite(sample).all() for sample in (*rounded, *exact))
    return finite and all(
        relative_error(got.astype(np.float64), expected) <= declaration.tolerance / 2
        for got, expected in zip(rounded, exact, strict=True)
    )


def test_schedule_is_exactly_that_of_diffusers(declaration, cases):
    """Bit for bit, once torch's elementary functions are rounded correctly; `CorrectRounding` says why."""
    _check_runs(declaration, cases, _check_schedule)


def _check_schedule(declaration, case):
    ours, theirs = plan_ours(declaration, case), plan_theirs(declaration, case)
    timesteps = np.asarray(theirs.timesteps)
    assert ours.timesteps.dtype == timesteps.dtype
    # exact in float32; the float64 timesteps of KDPM2 pass through logarithms and quantiles
    np.testing.assert_allclose(ours.timesteps, timesteps, rtol=1e-14)
    if getattr(theirs, "sigmas", None) is not None:
        sigmas = np.asarray(theirs.sigmas)
        assert ours.sigmas.dtype == sigmas.dtype
        assert ours.sigmas.shape == sigmas.shape
        assert ulp_distance(ours.sigmas, sigmas) <= declaration.max_sigma_ulp
    assert ours.init_noise_sigma == pytest.approx(init_noise_sigma(theirs), rel=3e-7)


def test_schedule_is_that_of_diffusers_as_installed(declaration):
    """Without `CorrectRounding`: within some units in the last place.

    `rescale_betas_zero_snr` subtracts nearly equal square roots, which magnifies their last bits.
    """
    check_each(declaration.few_cases, partial(_check_schedule_as_installed, declaration))


def _check_schedule_as_installed(declaration, case):
    growth = 1e4 if case.options.get("rescale_betas_zero_snr") else 1.0
    ours, theirs = plan_ours(declaration, case), make_theirs(declaration.name, case.options)
    theirs.set_timesteps(**case.set_timesteps)
    # timesteps cut to integers may fall on either side
    slack = 1.0 if ours.timesteps.dtype == np.int64 else 1e-3 * declaration.magnification(theirs)
    np.testing.assert_allclose(ours.timesteps, np.asarray(theirs.timesteps), rtol=2e-4, atol=slack * growth)
    if getattr(theirs, "sigmas", None) is not None:
        np.testing.assert_allclose(ours.sigmas, np.asarray(theirs.sigmas), rtol=2e-6 * growth, atol=1e-7)


def test_every_step_is_that_of_diffusers(declaration, cases):
    """Unchanged diffusers; the same model and the same noise, each library following its own samples.

    Tolerance: diffusers computes coefficients in float32, with differences of nearly equal numbers among them; after
    50 steps of a model whose slope is near one, 1e-4 of the sample's magnitude is what is left of that. Where sigma
    starts in the thousands, both subtract numbers of that size, which leaves their rounding in all that follows: some
    units in the last place of the largest of them. The test after this one looks below that.
    """
    _check_runs(declaration, cases, _check_steps)


def _check_steps(declaration, case):
    theirs, ours = run_theirs(declaration, case), run_ours(declaration, case)
    assert len(ours.samples) == len(theirs.samples) > 0
    for i, (got, expected) in enumerate(zip(ours.samples, theirs.samples, strict=True)):
        assert np.isfinite(expected).all(), "the declaration's keep() lets a case through that diffusers cannot run"
        assert got.dtype == np.float32
        rounding = 16 * EPS * theirs.peaks[i] * declaration.magnification(theirs.scheduler)
        assert error_beyond(got, expected, rounding) <= declaration.tolerance, f"sample after step {i}"
        if theirs.predicted[i] is not None:
            error = error_beyond(ours.predicted[i], theirs.predicted[i], rounding)
            assert error <= declaration.tolerance, f"x0 at step {i}"


@pytest.mark.slow_cases("DPMSolverSDE*", "CosineDPM*")
def test_every_step_is_that_of_diffusers_without_rounding(declaration, cases):
    """The same in float64, where nothing but the schedule is rounded: the formulas are the same to six digits."""
    _check_runs(declaration, cases, _check_exact_steps)


def _check_exact_steps(declaration, case):
    theirs, ours = run_theirs(declaration, case, double=True), run_ours(declaration, case, double=True)
    for i, (got, expected) in enumerate(zip(ours.samples, theirs.samples, strict=True)):
        assert got.dtype == expected.dtype == np.float64
        rounding = 16 * EXACT_EPS * theirs.peaks[i] * declaration.magnification(theirs.scheduler)
        assert error_beyond(got, expected, rounding) <= declaration.exact_tolerance, f"sample after step {i}"
        if theirs.predicted[i] is not None:
            error = error_beyond(ours.predicted[i], theirs.predicted[i], rounding)
            assert error <= declaration.exact_tolerance, f"x0 at step {i}"
