"""Configs that travel between classes: read from the other class's file, in diffusers and here, and run for a step."""

import json
import re

import numpy as np
import pytest
import torch
from diffusers import schedulers as reference
from scheduler_harness.correct_rounding import CorrectRounding
from scheduler_harness.double_precision import DoublePrecision, to_double
from scheduler_harness.side_by_side import (
    SEED,
    SHAPE,
    RoundedNoise,
    make_theirs,
    model,
    quick_constructor,
    relative_error,
    start,
    takes_generator,
)

from diffoundry.runtime.errors import DiffoundryError
from diffoundry.runtime.schedulers import scheduler_class

REFUSED_HERE = re.compile(
    "option 'solver_order' is 4, expected 1, 2 or 3"  # diffusers takes order 3 for it
    "|options 'use_flow_sigmas' and '.*' are both true"  # diffusers takes the other one
    "|nothing can be predicted from it"  # diffusers clips infinity
)
"""Configs that diffusers reads and does not obey."""

BROKEN_THERE = "The size of tensor a"
"""diffusers' singlestep solver thresholds "dpmsolver" with the whole schedule instead of one level, and breaks."""

CASES = 4


def _public(config):
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _plan(scheduler):
    """As a pipeline that begins at the first timestep, which may repeat."""
    scheduler.set_timesteps(5)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)


def _step_of_theirs(name, config, channels):
    """The options that diffusers reads, and the first sample, in float64 after a correctly rounded schedule."""
    with CorrectRounding(), quick_constructor(name):
        scheduler = getattr(reference, name).from_config(config)
        options = _public(scheduler.config)
    with CorrectRounding():
        _plan(scheduler)
    to_double(scheduler)
    named = {"generator": torch.Generator().manual_seed(SEED)} if takes_generator(scheduler) else {}
    sample, timestep = start(1).astype(np.float64), scheduler.timesteps[0]
    output = torch.from_numpy(model(sample, float(timestep), channels))
    with DoublePrecision():
        return options, scheduler.step(output, timestep, torch.from_numpy(sample), **named).prev_sample.numpy()


def _step_of_ours(name, config, channels):
    scheduler = scheduler_class(name).from_config(config)
    options = _public(scheduler.config)
    _plan(scheduler)
    named = {"generator": RoundedNoise(SEED)} if takes_generator(scheduler) else {}
    sample, timestep = start(1).astype(np.float64), scheduler.timesteps[0]
    output = model(sample, float(timestep), channels)
    return options, scheduler.step(output, timestep, sample, **named).prev_sample


def _files(all_declarations, name):
    """Configs as diffusers writes them, of the classes whose configs this one takes."""
    for source in all_declarations:
        if source.name != name and name in scheduler_class(source.name).compatible_names:
            for case in source.few_cases[:CASES]:
                config = json.loads(make_theirs(source.name, case.options).to_json_string())
                yield {**config, "noise_sampler_seed": 0}  # without one diffusers takes an arbitrary seed


def _channels(name, config):
    """Of the model's output: twice the sample's where the config of this class has a learned variance."""
    learned = str(config.get("variance_type")).startswith("learned")
    return SHAPE[0] * (2 if learned and "variance_type" in scheduler_class(name).Options.__dataclass_fields__ else 1)


def test_a_config_of_a_compatible_class_is_obeyed_as_diffusers_does(declaration, all_declarations):
    """The same options, the same first step; or both refuse it."""
    name, ran = declaration.name, 0
    for config in _files(all_declarations, name):
        channels = _channels(name, config)
        try:
            theirs, expected = _step_of_theirs(name, config, channels)
        except Exception as error:  # noqa: BLE001 - diffusers' refusals are of many types
            if BROKEN_THERE in str(error):
                continue
            with pytest.raises((DiffoundryError, ValueError)):
                _step_of_ours(name, config, channels)
            continue
        try:
            ours, got = _step_of_ours(name, config, channels)
        except DiffoundryError as refusal:
            if np.isfinite(expected).all() and not REFUSED_HERE.search(str(refusal)):
                raise
            continue
        assert {key: ours[key] for key in theirs} == theirs
        if np.isfinite(expected).all():
            assert relative_error(got, expected) <= max(1e-6, declaration.exact_tolerance), config
            ran += 1
    if name in reference.KarrasDiffusionSchedulers.__members__:
        assert ran > 10
