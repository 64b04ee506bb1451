"""Every numeric option of every scheduler with numbers that make no schedule: our errors or a run, quickly."""

import dataclasses
import math
import typing

import numpy as np
import pytest

from diffoundry.runtime.errors import ConfigError, DiffoundryError, InputError
from diffoundry.runtime.pipelines.tasks.schedule import cut_end
from diffoundry.runtime.schedulers import scheduler_class, scheduler_from_config, scheduler_names

_VALUES = (-2, 0, 1, 3, -0.5, 1e-9, 1e12, 1e29, 10**9, 10**12, -(10**9), 10**400, math.inf, -math.inf, math.nan)
_REQUIRED = {"VQDiffusionScheduler": {"num_vec_classes": 8}}


def _options(name):
    """Every numeric option of a scheduler with every odd value."""
    cls = scheduler_class(name)
    hints = typing.get_type_hints(cls.Options)
    for field in dataclasses.fields(cls.Options):
        hint = str(hints[field.name])
        if "int" in hint or "float" in hint:
            yield from ({field.name: [value] * 4 if "Sequence" in hint else value} for value in _VALUES)


def _run(name, options):
    """Three steps of a run, where a loop can drive the scheduler."""
    scheduler = scheduler_class(name)(**{**_REQUIRED.get(name, {}), **options})
    scheduler.set_timesteps(4)
    scheduler.check_loop(channels=4, output_channels=4)
    sample = np.ones((1, 4, 8, 8), np.float32)
    for timestep in scheduler.model_timesteps[:3]:
        output = np.zeros_like(scheduler.scale_model_input(sample, timestep))
        sample = scheduler.loop_step(output, timestep, sample, generator=None).prev_sample


def test_odd_numbers_of_options_end_in_our_errors():
    """About 4,300 runs; each other exception is listed by name."""
    raised = []
    with np.errstate(all="ignore"):
        for name in scheduler_names():
            for options in _options(name):
                try:
                    _run(name, options)
                except DiffoundryError:
                    continue
                except Exception as error:  # noqa: BLE001  # the list is the message
                    raised.append(f"{name} {options}: {type(error).__name__}: {error}")
    assert not raised, "\n".join(raised)


@pytest.mark.parametrize("steps", [10**9, 10**12, 10**400, True, "5", 2.5, [3]], ids=lambda steps: str(steps)[:12])
def test_odd_numbers_of_steps_are_refused_before_memory_is_taken(steps):
    for name in scheduler_names():
        scheduler = scheduler_class(name)(**_REQUIRED.get(name, {}))
        with pytest.raises(DiffoundryError, match="num_inference_steps|steps"):
            scheduler.set_timesteps(steps)


def test_the_message_names_the_number_and_its_bound():
    with pytest.raises(InputError, match="set_timesteps: num_inference_steps is 1000000000, expected at most 100000"):
        scheduler_class("EulerDiscreteScheduler")().set_timesteps(10**9)
    with pytest.raises(InputError, match="set_timesteps: 'timesteps': got \\[3, nan\\], expected a list of numbers"):
        scheduler_class("EulerDiscreteScheduler")().set_timesteps(timesteps=[3, math.nan])
    with pytest.raises(InputError, match="set_timesteps: 'sigmas' has 100001 values, expected at most 100000"):
        scheduler_class("EulerDiscreteScheduler")().set_timesteps(sigmas=[1.0] * 100_001)
    config = {"_class_name": "DDIMScheduler"}
    for option, value, expected in (
        ("beta_end", -2, "is -2, expected 0 to 1: it is a variance"),
        ("beta_start", 1e12, "is 1000000000000.0, expected 0 to 1"),
        ("num_train_timesteps", 10**9, "is 1000000000, expected at most 100000"),
        ("steps_offset", 10**6, "is 1000000, expected at most num_train_timesteps = 1000"),
        ("trained_betas", [2.0] * 1000, "is a list with other numbers, expected variances from 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=f"DDIMScheduler: option '{option}' {expected}"):
            scheduler_from_config({**config, option: value})


def test_options_without_a_schedule_are_named():
    message = r"EDMEulerScheduler: cannot compute with the options rho = 0 \(float division"
    with pytest.raises(ConfigError, match=message):
        scheduler_class("EDMEulerScheduler")(rho=0)
    scheduler, sample = scheduler_class("DDIMScheduler")(), np.zeros((1, 4, 8, 8), np.float32)
    scheduler.set_timesteps(4)
    with pytest.raises(ConfigError, match=r"DDIMScheduler.step: cannot compute with its default options \(list index"):
        scheduler.step(sample, 5000, sample)


def test_a_fraction_of_no_training_schedule_is_refused():
    scheduler = scheduler_class("MiniMaxH3Scheduler")()
    scheduler.set_timesteps(4)
    with pytest.raises(
        InputError, match="denoising_end: MiniMaxH3Scheduler has no training schedule to take a part of"
    ):
        cut_end(scheduler, scheduler.timesteps, 0.5)
