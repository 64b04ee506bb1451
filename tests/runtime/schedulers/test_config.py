"""Configs: the same options and defaults as diffusers, read and written both ways, wrong ones refused by name."""

import ast
import copy
import inspect
import json
import re
import textwrap
from dataclasses import fields
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import schedulers as reference
from scheduler_harness.correct_rounding import CorrectRounding
from scheduler_harness.side_by_side import make_theirs, quick_constructor
from scheduler_harness.tables import check_each

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers import Scheduler, scheduler_class, scheduler_from_config, scheduler_names
from diffoundry.runtime.schedulers.config import DIFFUSERS_VERSION, KARRAS_COMPATIBLES, KNOWN_OPTIONS

DDIM = {"_class_name": "DDIMScheduler"}


def _signature(name):
    parameters = inspect.signature(getattr(reference, name).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ("self", "args", "kwargs")}


def _public(config):
    return {key: value for key, value in config.items() if not key.startswith("_")}


def test_options_and_defaults_are_those_of_diffusers(declaration):
    cls = scheduler_class(declaration.name)
    theirs = _signature(declaration.name)
    required = {
        name: declaration.options[name][0] for name, value in theirs.items() if value is inspect.Parameter.empty
    }
    ours = _public(cls(**required).config)
    expected = {name: required.get(name, value) for name, value in theirs.items()}
    assert ours == expected
    assert {name: type(value) for name, value in ours.items()} == {name: type(v) for name, v in expected.items()}


def test_every_option_is_tested(declaration):
    """No option without a declared value beside its default, unless diffusers knows one value only."""
    options = {field.name for field in fields(scheduler_class(declaration.name).Options)}
    assert declaration.option_names == options


def test_order_and_compatibles_are_those_of_diffusers(declaration):
    theirs = getattr(reference, declaration.name)
    cls = scheduler_class(declaration.name)
    assert cls.order == getattr(theirs, "order", 1)
    assert set(cls.compatible_names) == set(theirs._compatibles)


def _parameters(method):
    return set(inspect.signature(method).parameters) - {"self", "args", "kwargs", "device", "return_dict"}


def test_set_timesteps_takes_what_that_of_diffusers_takes(declaration):
    cls = scheduler_class(declaration.name)
    theirs = _parameters(getattr(reference, declaration.name).set_timesteps)
    if declaration.name == "PiflowScheduler":
        theirs -= {"timesteps", "sigmas", "mu"}  # which diffusers names to refuse them
    assert cls.custom_schedules == theirs & {"timesteps", "sigmas", "mu"}
    assert theirs <= _parameters(cls.set_timesteps)


STEPS = ("step", "step_pred", "step_correct", "add_noise_to_input", "undo_step")


def test_steps_take_what_those_of_diffusers_obey(declaration):
    """Arguments that diffusers never reads are not taken: they would have no effect."""
    own = vars(getattr(reference, declaration.name))
    check_each([method for method in STEPS if own.get(method)], partial(_check_arguments, declaration))


def _check_arguments(declaration, method):
    theirs = getattr(getattr(reference, declaration.name), method)
    tree = ast.parse(textwrap.dedent(inspect.getsource(theirs)))
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert _parameters(theirs) & read <= _parameters(getattr(scheduler_class(declaration.name), method))


def test_length_and_first_schedule_are_those_of_diffusers(declaration):
    options = declaration.few_cases[0].options
    ours = scheduler_class(declaration.name)(**options)
    with CorrectRounding():
        theirs = getattr(reference, declaration.name)(**options)
    if "num_train_timesteps" not in theirs.config:
        with pytest.raises(TypeError, match="has no length: its model knows no number of training steps"):
            len(ours)
    elif hasattr(type(theirs), "__len__"):
        assert len(ours) == len(theirs)
    if getattr(theirs, "timesteps", None) is not None:
        # float64 timesteps of KDPM2 pass through logarithms
        np.testing.assert_allclose(ours.timesteps, np.asarray(theirs.timesteps), rtol=1e-14)


def test_diffusers_reads_what_we_write(declaration, tmp_path):
    for case in declaration.few_cases[:8]:
        ours = scheduler_class(declaration.name)(**case.options)
        ours.save_config(tmp_path)
        with quick_constructor(declaration.name):
            theirs = getattr(reference, declaration.name).from_pretrained(tmp_path)
        expected = _public(make_theirs(declaration.name, case.options).config)
        assert _public(theirs.config) == expected
        assert json.loads((tmp_path / "scheduler_config.json").read_text())["_diffusers_version"] == DIFFUSERS_VERSION


def test_we_read_what_diffusers_writes(declaration, tmp_path):
    for case in declaration.few_cases[:8]:
        theirs = make_theirs(declaration.name, case.options)
        theirs.save_pretrained(tmp_path)
        ours = scheduler_from_config(tmp_path)
        assert type(ours).__name__ == declaration.name
        assert _public(ours.config) == _public(theirs.config)
        written = (tmp_path / "scheduler_config.json").read_text()
        assert ours.save_config(tmp_path).read_text() == written


def test_unknown_values_are_refused_by_name(declaration):
    options = scheduler_class(declaration.name).Options
    for field in fields(options):
        with pytest.raises(ConfigError, match=re.escape(f"{declaration.name}: option '{field.name}' is")):
            scheduler_class(declaration.name)(**{field.name: object()})


def test_from_config_takes_the_config_of_each_compatible_class(declaration):
    """As diffusers: the options that were given travel, the other class's defaults do not."""
    theirs = getattr(reference, declaration.name)
    for name in sorted(set(scheduler_class(declaration.name).compatible_names) & set(scheduler_names())):
        changes = {"num_train_timesteps": 100}
        source = make_theirs(name, changes)
        ours = scheduler_class(declaration.name).from_config(scheduler_class(name)(**changes).config)
        with quick_constructor(declaration.name):
            expected = theirs.from_config(source.config)
        known = {key: value for key, value in ours.config.items() if key in expected.config}
        assert _public(known) == _public(expected.config)


def test_hidden_options_survive_the_way_through_another_class():
    there = scheduler_class("DDIMScheduler").from_config(
        scheduler_class("EulerDiscreteScheduler")(use_karras_sigmas=True).config
    )
    assert there.config["use_karras_sigmas"] is True
    back = scheduler_class("EulerDiscreteScheduler").from_config(there.config)
    assert back.options.use_karras_sigmas is True


def test_overrides_win_over_the_config():
    scheduler = scheduler_from_config({**DDIM, "clip_sample": True}, clip_sample=False)
    assert scheduler.options.clip_sample is False


def test_config_is_read_only_and_has_attributes():
    config = scheduler_class("DDIMScheduler")(steps_offset=1).config
    assert config.steps_offset == config["steps_offset"] == 1
    assert copy.deepcopy(config) == config
    with pytest.raises(AttributeError, match=r"read-only: use from_config\(config, steps_offset="):
        config.steps_offset = 2
    with pytest.raises(AttributeError, match="no option 'steps'"):
        _ = config.steps


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "FooScheduler"}, "scheduler 'FooScheduler' is unknown, expected one of .*DDIMScheduler"),
        ({}, "'_class_name' is None, expected one of"),
        (
            {**DDIM, "clip_smaple": True},
            r"key 'clip_smaple' is not an option of any scheduler of diffusers 0.42.1. Did you mean 'clip_sample'\?",
        ),
        (
            {**DDIM, "beta_schedule": "foo"},
            "option 'beta_schedule' is 'foo', expected 'linear'",
        ),
        (
            {**DDIM, "clip_sample": "yes"},
            "option 'clip_sample' is 'yes', expected true or false",
        ),
        ({**DDIM, "beta_end": float("nan")}, "option 'beta_end' is nan, expected a number"),
        (
            {"_class_name": "HeunDiscreteScheduler", "use_karras_sigmas": True, "sigma_min": "x"},  # another class's
            "'sigma_min' is 'x', expected a number or null",
        ),
        ({**DDIM, "num_train_timesteps": 0}, "'num_train_timesteps' is 0, expected at least 1"),
        (
            {**DDIM, "trained_betas": [0.1]},
            "'trained_betas' has 1 values, expected one for each",
        ),
    ],
)
def test_wrong_configs_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        scheduler_from_config(config)


def test_wrong_files_are_refused(tmp_path):
    path = tmp_path / "scheduler_config.json"
    with pytest.raises(ConfigError, match="cannot be read .*expected a scheduler_config.json or its folder"):
        scheduler_from_config(tmp_path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        scheduler_from_config(tmp_path)
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="holds a list, expected a JSON object"):
        scheduler_from_config(path)


def test_unknown_keyword_is_refused():
    with pytest.raises(ConfigError, match="DDIMScheduler: option 'use_karras_sigmas' is unknown. It takes beta_end, "):
        scheduler_class("DDIMScheduler")(use_karras_sigmas=True)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("EulerDiscretScheduler", "EulerDiscreteScheduler"),
        ("EulerScheduler", "EulerDiscreteScheduler"),
        ("ddim", "DDIMScheduler"),
        ("UniPC", "UniPCMultistepScheduler"),
        ("DPMSolverMultistpScheduler", "DPMSolverMultistepScheduler"),
    ],
)
def test_a_misspelled_scheduler_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match=re.escape(f"scheduler '{name}' is unknown. Did you mean '{nearest}'?")):
        scheduler_class(name)


def test_a_misspelled_option_is_answered_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"option 'beta_strat' is unknown. Did you mean 'beta_start'\? It takes beta_end"
    ):
        scheduler_class("DDIMScheduler")(beta_strat=0.1)


def test_known_options_are_all_options_of_diffusers():
    names = [name for name in dir(reference) if name.endswith("Scheduler")]
    options = {option for name in names for option in _signature(name)}
    assert options <= KNOWN_OPTIONS


def test_options_of_the_first_versions_are_ignored_as_by_diffusers():
    """As in checkpoints of latent diffusion and DDPM that were published with diffusers 0.0 and 0.1."""
    config = {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.1.2",
        "beta_end": 0.0195,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.0015,
        "clip_sample": False,
        "tensor_format": "pt",
        "timestep_values": None,
        "timesteps": 1000,
        "trained_betas": None,
    }
    ours, theirs = scheduler_class("DDIMScheduler").from_config(config), reference.DDIMScheduler.from_config(config)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(7)
    np.testing.assert_array_equal(ours.timesteps, theirs.timesteps.numpy())
    sample = np.random.default_rng(0).standard_normal((1, 3, 4, 4), np.float32)
    expected = theirs.step(torch.from_numpy(sample), 852, torch.from_numpy(sample)).prev_sample.numpy()
    np.testing.assert_allclose(ours.step(sample, 852, sample).prev_sample, expected, atol=1e-6)


def test_karras_compatibles_are_those_of_diffusers():
    from diffusers.schedulers import KarrasDiffusionSchedulers

    assert list(KARRAS_COMPATIBLES) == [member.name for member in KarrasDiffusionSchedulers]


def test_compatibles_are_classes(declaration):
    classes = scheduler_class(declaration.name)(**declaration.few_cases[0].options).compatibles
    assert scheduler_class(declaration.name) in classes
    assert all(issubclass(cls, Scheduler) for cls in classes)
