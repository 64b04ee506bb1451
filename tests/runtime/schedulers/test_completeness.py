"""Every scheduler that diffusers exports is ours, or is left out for a stated reason; every one of ours is tested."""

import dataclasses
import itertools

import diffusers
import pytest
from diffusers import schedulers as reference
from scheduler_harness.declaration import FEW

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers import scheduler_class, scheduler_from_config, scheduler_names
from diffoundry.runtime.schedulers.config import DIFFUSERS_VERSION

LEFT_OUT = {
    "AmusedScheduler": "unmasks tokens by confidence: its samples are classes, its step a top-k choice among them",
    "BlockRefinementScheduler": "refines blocks of text tokens",
    "DiscreteDDIMScheduler": "a diffusion over text tokens",
    "EntropyBoundScheduler": "accepts text tokens by the entropy of their distribution",
    "RFD4ProteinaScheduler": "samples the coordinates of protein backbones",
}
"""Schedulers of diffusers that do not sample images or videos, with their purpose."""


def _exported():
    names = {*dir(reference), *dir(diffusers)}
    return {name for name in names if name.endswith("Scheduler")}


def test_the_reference_is_the_version_that_is_followed():
    assert diffusers.__version__ == DIFFUSERS_VERSION


def test_scheduler_classes_are_recognised_by_their_names():
    """So that a class which diffusers cannot load here, for want of another package, is counted as well."""
    loaded = {name: getattr(reference, name) for name in dir(reference)}
    mixins = {name for name, value in loaded.items() if isinstance(value, type) and issubclass(value, _mixin())}
    assert mixins - {_mixin().__name__} <= _exported()


def _mixin():
    return reference.SchedulerMixin


def test_every_scheduler_of_diffusers_is_ours_or_left_out():
    missing = _exported() - set(scheduler_names()) - set(LEFT_OUT)
    assert not missing, f"neither ours nor left out: {sorted(missing)}"


def test_what_is_left_out_exists_and_is_not_ours():
    assert set(LEFT_OUT) <= _exported()
    assert not set(LEFT_OUT) & set(scheduler_names())


def test_ours_are_schedulers_of_diffusers():
    assert set(scheduler_names()) <= _exported()


def test_every_one_of_ours_is_tested(all_declarations):
    assert [declaration.name for declaration in all_declarations] == list(scheduler_names())


def test_few_cases_hold_every_value(declaration):
    """Twelve cases hold each value that any case holds, but for runs of which there are more than twelve."""
    assert len(declaration.few_cases) == min(FEW, len(declaration.cases))
    every, held = (
        {value for case in table for value in _values(declaration, case)}
        for table in (declaration.cases, declaration.few_cases)
    )
    assert {kind for kind, *_ in every - held} <= ({"run"} if len(declaration.runs) > FEW else set())


@pytest.mark.slow
def test_few_cases_hold_most_pairs_of_values(all_declarations):
    few, possible = 0, 0
    for declaration in all_declarations:
        run = {pair for case in declaration.few_cases for pair in _pairs(declaration, case)}
        few += len(run)
        possible += len(run | {pair for case in declaration.cases for pair in _pairs(declaration, case)})
    assert few / possible > 0.8


@pytest.mark.slow
def test_configurations_are_many(all_declarations):
    """Each is a whole run against diffusers, step by step."""
    count = sum(len(declaration.cases) for declaration in all_declarations)
    assert count >= 1500
    assert count + sum(len(declaration.further_cases) for declaration in all_declarations) >= 3000


@pytest.mark.slow
def test_every_pair_of_values_is_run(declaration):
    """Of options, runs and arguments of steps: hundreds of random cases hold no pair that none of the cases has."""
    run = {pair for case in declaration.cases for pair in _pairs(declaration, case)}
    for case in dataclasses.replace(declaration, at_least=0, further=400).further_cases:
        missing = set(_pairs(declaration, case)) - run
        assert not missing, f"can be run together and are not: {missing}"


def _pairs(declaration, case):
    return itertools.combinations(_values(declaration, case), 2)


def _values(declaration, case):
    return [
        *((name, str(case.options[name])[:60]) for name in sorted(declaration.option_names)),
        *(("step", name, str(value)) for name, value in case.step.items()),
        ("run", str(case.set_timesteps)),
        ("batch", case.batch),
        ("begin", case.begin),
    ]


STEP_COUNTS = {1, 2, 5, 20, 50}
REFUSED_COUNTS = {
    "ConsistencyDecoderScheduler": {1, 5, 20, 50},  # it has two steps
    "KarrasVeScheduler": {1},  # diffusers computes NaN
    "MiniMaxH3Scheduler": {1},  # its count includes the end of the run
    "UnCLIPScheduler": {1},  # diffusers divides by zero
}
"""Numbers of steps that a class refuses; the declarations and tests of each class provoke it."""


def test_every_class_is_run_with_every_number_of_steps(declaration, cases):
    run = {case.set_timesteps.get("num_inference_steps") for case in cases}
    refused = REFUSED_COUNTS.get(declaration.name, set())
    assert run >= STEP_COUNTS - refused or (len(cases) <= FEW < len(declaration.runs))
    assert not run & refused


def test_custom_schedules_are_run(declaration, cases):
    run = {name for case in cases for name in case.set_timesteps}
    assert run >= scheduler_class(declaration.name).custom_schedules


def test_both_batches_are_run(declaration, cases):
    assert {case.batch for case in cases} == {1, 3}


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_what_is_left_out_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"scheduler '{name}' is unknown, expected one of CMStochastic"):
        scheduler_from_config({"_class_name": name})
