"""Sampling plans: they reproduce the scheduler's run, survive JSON, and are refused where an update is not affine."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scheduler_harness.side_by_side import (
    SEED,
    RoundedNoise,
    begin_index,
    model,
    plan_ours,
    relative_error,
    run_ours,
    start,
)
from scheduler_harness.tables import check_each

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers import NotAffineError, SamplingPlan, execute, lower, scheduler_class


def _execute(declaration, case, plan):
    generator = RoundedNoise(SEED)
    sample = (start(case.batch) * plan.init_noise_sigma).astype(np.float64)
    channels = declaration.output_channels(case)
    assert channels == sample.shape[1]

    def noise():
        return generator.randn(sample.shape, sample.dtype)

    return execute(plan, sample, lambda x, t: model(x, t, channels), noise)


def test_plan_reproduces_the_run(declaration, cases):
    """In float64, where only the order of additions differs; in float32 a plan is the more accurate of the two."""
    check_each(cases, partial(_check_plan, declaration))


def _check_plan(declaration, case):
    option = declaration.not_affine(case)
    scheduler = plan_ours(declaration, case)
    if option is not None:
        with pytest.raises(NotAffineError, match=f"{declaration.name} cannot be lowered.*{option}"):
            lower(scheduler, begin=begin_index(scheduler, case), **case.step)
        return
    plan = SamplingPlan.from_json(lower(scheduler, begin=begin_index(scheduler, case), **case.step).to_json())
    run = run_ours(declaration, case, double=True)
    assert len(plan.steps) == len(run.samples)
    assert relative_error(_execute(declaration, case, plan), run.samples[-1]) <= 1e-9


GOLDEN = Path(__file__).parent / "plan_v1.json"


def test_a_plan_of_version_1_is_read():
    """A stored one: ancestral Euler, which scales its input and draws noise, in three steps over trained betas."""
    scheduler = scheduler_class("EulerAncestralDiscreteScheduler")(num_train_timesteps=4, trained_betas=[0.25] * 4)
    scheduler.set_timesteps(3)
    plan = SamplingPlan.from_json(GOLDEN.read_text())
    expected = lower(scheduler)
    assert plan.scheduler == expected.scheduler
    assert plan.init_noise_sigma == pytest.approx(expected.init_noise_sigma, rel=1e-12)
    for got, step in zip(plan.steps, expected.steps, strict=True):
        assert (got.timestep, got.draws) == (step.timestep, step.draws)
        for row in ("samples", "outputs", "noises"):
            assert getattr(got, row) == pytest.approx(getattr(step, row), rel=1e-12)


def test_a_text_that_is_no_json_is_refused():
    with pytest.raises(InputError, match="sampling plan: not JSON .*expected the text of `to_json`"):
        SamplingPlan.from_json("{")


def test_lowering_leaves_the_scheduler_alone():
    scheduler = scheduler_class("EulerDiscreteScheduler")()
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(1)
    plan = lower(scheduler)
    assert len(plan.steps) == 3
    assert scheduler.step_index is None
    assert plan == lower(scheduler)


def test_plan_is_the_formula():
    """Euler by hand: x' = x + (sigma' - sigma) epsilon, the model fed with x / sqrt(sigma^2 + 1)."""
    scheduler = scheduler_class("EulerDiscreteScheduler")()
    scheduler.set_timesteps(5)
    plan = lower(scheduler)
    sigmas = scheduler.sigmas.astype(np.float64)
    for i, step in enumerate(plan.steps):
        assert step.timestep == scheduler.timesteps[i]
        assert step.input_scale == pytest.approx((sigmas[i] ** 2 + 1) ** -0.5, rel=1e-12)
        assert step.samples == pytest.approx((1.0,), rel=1e-12)
        assert step.outputs == pytest.approx((sigmas[i + 1] - sigmas[i],), rel=1e-12)
        assert (step.draws, step.noises) == (0, ())


def test_noise_is_drawn_also_where_its_coefficient_is_zero():
    scheduler = scheduler_class("DDIMScheduler")(clip_sample=False)
    scheduler.set_timesteps(3)
    plan = lower(scheduler, eta=1.0)
    assert [step.draws for step in plan.steps] == [1, 1, 1]
    assert plan.steps[-1].noises == ()


def test_lowering_needs_a_planned_run():
    with pytest.raises(InputError, match="no run is planned. Call set_timesteps first"):
        lower(scheduler_class("DDIMScheduler")())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, 'expected a JSON object with "format": "diffoundry.sampling-plan"'),
        ({"version": 2}, "version is 2, expected 1: lower the scheduler again"),
        ({"steps": [{}]}, "a field is missing, unknown or of a wrong type"),
        ({"extra": 1}, "a field is missing, unknown or of a wrong type"),
    ],
)
def test_foreign_plans_are_refused(change, message):
    scheduler = scheduler_class("EulerDiscreteScheduler")()
    scheduler.set_timesteps(2)
    raw = json.loads(lower(scheduler).to_json())
    with pytest.raises(InputError, match=message):
        SamplingPlan.from_json(json.dumps({**raw, **change}))
