"""Refusals of diffusers, which are ours too, with a message that names the argument."""

from functools import partial

import numpy as np
import pytest
import torch
from scheduler_harness.side_by_side import SHAPE, make_theirs
from scheduler_harness.tables import check_each

from diffoundry.runtime.errors import DiffoundryError
from diffoundry.runtime.schedulers import scheduler_class


def _provoke(make, refusal, array):
    scheduler = make(refusal.options)
    if refusal.set_timesteps is not None:
        scheduler.set_timesteps(**refusal.set_timesteps)
    if refusal.step is not None:
        refusal.step(scheduler, array)


def test_both_refuse(declaration):
    if not declaration.refusals:
        pytest.skip("diffusers refuses nothing of it")
    check_each(declaration.refusals, partial(_check_refusal, declaration), lambda refusal: refusal.match)


def _check_refusal(declaration, refusal):
    # diffusers' refusals are of many types, some of them plain IndexErrors
    with pytest.raises(Exception):  # noqa: B017, PT011
        _provoke(lambda o: make_theirs(declaration.name, dict(o)), refusal, lambda: torch.zeros(1, *SHAPE))
    with pytest.raises(DiffoundryError, match=refusal.match):
        _provoke(
            lambda o: scheduler_class(declaration.name)(**o), refusal, lambda: np.zeros((1, *SHAPE), dtype=np.float32)
        )


def test_a_refused_plan_changes_nothing(declaration):
    scheduler = scheduler_class(declaration.name)(**declaration.few_cases[0].options)
    scheduler.set_timesteps(**declaration.few_cases[0].set_timesteps)
    before = scheduler.timesteps
    with pytest.raises(DiffoundryError, match="set_timesteps: num_inference_steps is 0, expected at least 1"):
        scheduler.set_timesteps(0)
    with pytest.raises(DiffoundryError, match="set_timesteps: got nothing, expected exactly one of num_"):
        scheduler.set_timesteps()
    assert scheduler.timesteps is before
