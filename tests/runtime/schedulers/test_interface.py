"""The methods around the steps of every scheduler: added noise, scaled input, forks, repeated runs."""

import copy
import itertools
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from scheduler_harness.correct_rounding import CorrectRounding
from scheduler_harness.side_by_side import (
    SEED,
    SHAPE,
    begin_index,
    model,
    plan_ours,
    plan_theirs,
    relative_error,
    run_ours,
    start,
    takes_generator,
    usual_loop,
)
from scheduler_harness.tables import check_each

import diffoundry.runtime.schedulers as package
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random import TorchCpuGenerator
from diffoundry.runtime.schedulers import scheduler_class, scheduler_names

IMAGE = np.random.default_rng(1).uniform(-1, 1, (3, *SHAPE)).astype(np.float32)
NOISE = np.random.default_rng(2).standard_normal((3, *SHAPE), dtype=np.float32)


def _few(declaration):
    return declaration.few_cases[:6]


def _same_noised(declaration, method):
    for case in _few(declaration):
        ours, theirs = plan_ours(declaration, case), plan_theirs(declaration, case)
        if method not in dir(type(theirs)) or method in declaration.lacks:
            pytest.skip(f"diffusers has no such {method}")
        first = begin_index(ours, case)
        timesteps = ours.timesteps[[first, len(ours.timesteps) // 2, -1]]
        got = getattr(ours, method)(IMAGE, NOISE, timesteps)
        with CorrectRounding():
            expected = getattr(theirs, method)(
                torch.from_numpy(IMAGE), torch.from_numpy(NOISE), torch.from_numpy(timesteps)
            )
        assert got.dtype == np.float32
        assert relative_error(got, expected.numpy()) <= 1e-6, str(case)


def test_add_noise_is_that_of_diffusers(declaration):
    _same_noised(declaration, "add_noise")


def test_get_velocity_is_that_of_diffusers(declaration):
    _same_noised(declaration, "get_velocity")


def test_model_input_is_that_of_diffusers(declaration):
    for case in _few(declaration):
        ours, theirs = plan_ours(declaration, case), plan_theirs(declaration, case)
        first = begin_index(ours, case)
        got = ours.scale_model_input(IMAGE, ours.timesteps[first])
        if "scale_model_input" not in dir(type(theirs)):
            assert got is IMAGE
            continue
        expected = theirs.scale_model_input(torch.from_numpy(IMAGE), theirs.timesteps[first])
        assert got.dtype == np.float32
        assert relative_error(got, expected.numpy()) <= 1e-6, str(case)


def _net(declaration, case):
    channels = declaration.output_channels(case)
    return lambda sample, timestep: model(sample, float(timestep), channels)


def _arguments(scheduler, case, seed=SEED):
    arguments = dict(case.step)
    if takes_generator(scheduler):
        arguments["generator"] = TorchCpuGenerator(seed)
    return arguments


def _loop(declaration, scheduler, case, seed=SEED, sample=None):
    sample = start(case.batch) * scheduler.init_noise_sigma if sample is None else sample
    loop = declaration.loop or usual_loop
    arguments = _arguments(scheduler, case, seed)
    for result in loop(scheduler, sample, _net(declaration, case), arguments, begin_index(scheduler, case)):
        yield result.prev_sample


@pytest.mark.slow_cases("DPMSolverSDE*", "CosineDPM*")
def test_a_second_run_equals_the_first(declaration):
    for case in _few(declaration):
        scheduler = plan_ours(declaration, case)
        first = list(_loop(declaration, scheduler, case))
        fresh = plan_ours(declaration, case)
        scheduler.set_timesteps(**case.set_timesteps)
        if getattr(fresh, "begin_index", None) is not None:
            scheduler.set_begin_index(fresh.begin_index)
        for got, expected in zip(_loop(declaration, scheduler, case), first, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.slow_cases("DPMSolverSDE*", "CosineDPM*")
def test_two_loops_at_once_do_not_disturb_each_other(declaration):
    for case in _few(declaration):
        alone = run_ours(declaration, case).samples
        one, two = plan_ours(declaration, case), plan_ours(declaration, case)
        pairs = zip(_loop(declaration, one, case), _loop(declaration, two, case, seed=SEED + 1), strict=True)
        for (got, _), expected in zip(pairs, alone, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_two_loops_in_two_threads_do_not_disturb_each_other(declaration):
    case = declaration.few_cases[0]
    alone = run_ours(declaration, case).samples

    def run(seed):
        return list(_loop(declaration, plan_ours(declaration, case), case, seed=seed))

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run, seed) for seed in (SEED, SEED + 1, SEED)]
        for finished in (runs[0].result(), runs[2].result()):
            for got, expected in zip(finished, alone, strict=True):
                np.testing.assert_array_equal(got, expected)


FORKS = {
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "Scheduler.copy": lambda scheduler: scheduler.copy(),
    "pickle": lambda scheduler: pickle.loads(pickle.dumps(scheduler)),
}


@pytest.mark.slow_cases("DPMSolverSDE*", "CosineDPM*")
def test_a_fork_in_the_middle_of_a_run_is_independent(declaration):
    """Fork after two steps, finish the fork with other samples, then finish the original: it must not notice."""
    if declaration.loop is not None:
        pytest.skip("its loop is not one of single steps")
    cases = [case for case in declaration.few_cases if case.begin == 0.0][:3]
    check_each(itertools.product(FORKS, cases), partial(_check_fork, declaration), lambda row: f"{row[0]}, {row[1]}")


def _check_fork(declaration, row):
    fork, case = FORKS[row[0]], row[1]
    alone = run_ours(declaration, case).samples
    scheduler = plan_ours(declaration, case)
    arguments, net = _arguments(scheduler, case), _net(declaration, case)
    sample = start(case.batch) * scheduler.init_noise_sigma
    for i, timestep in enumerate(scheduler.timesteps):
        if i == 2:
            other = fork(scheduler)
            _finish(other, _arguments(other, case, seed=3), net, sample * 0.5)
        fed = scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(net(fed, timestep), timestep, sample, **arguments).prev_sample
        np.testing.assert_array_equal(sample, alone[i])


def _finish(scheduler, arguments, net, sample):
    for timestep in scheduler.timesteps[2:]:
        fed = scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(net(fed, timestep), timestep, sample, **arguments).prev_sample


def test_steps_leave_their_arguments_alone(declaration):
    case = declaration.few_cases[0]
    if declaration.loop is not None:
        pytest.skip("its loop is not one of single steps")
    scheduler = plan_ours(declaration, case)
    arguments, net = _arguments(scheduler, case), _net(declaration, case)
    sample = start(case.batch) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps[begin_index(scheduler, case) :]:
        output = net(scheduler.scale_model_input(sample, timestep), timestep)
        kept = sample.copy(), output.copy()
        following = scheduler.step(output, timestep, sample, **arguments).prev_sample
        np.testing.assert_array_equal(sample, kept[0])
        np.testing.assert_array_equal(output, kept[1])
        sample = following


def test_one_generator_for_each_image():
    """A batch with a list of generators is the images on their own."""
    scheduler = scheduler_class("EulerAncestralDiscreteScheduler")()
    batch = start(2)

    def finish(samples, generator):
        scheduler.set_timesteps(3)
        for timestep in scheduler.timesteps:
            output = model(scheduler.scale_model_input(samples, timestep), float(timestep), 3)
            samples = scheduler.step(output, timestep, samples, generator=generator).prev_sample
        return samples

    together = finish(batch, [TorchCpuGenerator(1), TorchCpuGenerator(2)])
    for i in range(2):
        np.testing.assert_array_equal(together[i : i + 1], finish(batch[i : i + 1], TorchCpuGenerator(i + 1)))


def test_without_a_generator_noise_is_unseeded():
    scheduler = scheduler_class("EulerAncestralDiscreteScheduler")()
    results = []
    for _ in range(2):
        scheduler.set_timesteps(2)
        scheduler.scale_model_input(NOISE, scheduler.timesteps[0])
        results.append(scheduler.step(NOISE, scheduler.timesteps[0], NOISE * 100).prev_sample)
    assert not np.array_equal(*results)
    assert results[0].dtype == np.float32


def test_arguments_that_a_scheduler_does_not_take_are_refused():
    with pytest.raises(InputError, match=r"DDIMScheduler.set_timesteps does not take 'sigmas'. It takes num_"):
        scheduler_class("DDIMScheduler")().set_timesteps(sigmas=[1.0, 0.0])
    with pytest.raises(InputError, match="'sigmas' is empty, expected at least one value"):
        scheduler_class("EulerDiscreteScheduler")().set_timesteps(sigmas=[])


def test_a_run_that_is_over_says_so():
    scheduler = scheduler_class("EulerDiscreteScheduler")()
    scheduler.set_timesteps(1)
    scheduler.step(NOISE, scheduler.timesteps[0], NOISE)
    with pytest.raises(InputError, match="the run of 1 steps is over. Call set_timesteps again"):
        scheduler.step(NOISE, scheduler.timesteps[0], NOISE)
    scheduler.set_timesteps(1)
    with pytest.raises(InputError, match="the first call of a run needs its timestep, got None"):
        scheduler.scale_model_input(NOISE)


def test_every_scheduler_is_an_attribute_of_the_package():
    for name in scheduler_names():
        assert getattr(package, name) is scheduler_class(name)
        assert name in dir(package)
    with pytest.raises(AttributeError, match="has no attribute 'FooScheduler'"):
        _ = package.FooScheduler


def test_importing_the_package_loads_no_scheduler_and_no_torch():
    code = (
        "import sys, diffoundry.runtime.schedulers as s\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('torch', 'scipy', 'diffusers')]\n"
        "assert 'diffoundry.runtime.schedulers.algorithms.flow_match_euler_discrete' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
