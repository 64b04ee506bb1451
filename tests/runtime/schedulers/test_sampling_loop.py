"""The sampling loop of pipelines: each scheduler finishes it as diffusers does, or is refused before its first step."""

import ast
import inspect
import textwrap
from dataclasses import asdict

import numpy as np
import pytest
from diffusers import schedulers as reference
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from scheduler_harness.declaration import Case
from scheduler_harness.side_by_side import SEED, SHAPE, RoundedNoise, error_beyond, model, run_theirs, start

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers import mu_for, scheduler_class

NEEDED_LOOPS = {
    "HeliosDMDScheduler": "a Helios pipeline, which runs 3 stages of growing resolution",
    "HeliosScheduler": "a Helios pipeline, which runs 3 stages of growing resolution",
    "KarrasVeScheduler": "KarrasVePipeline, which adds noise before each model call and corrects each step",
    "RePaintScheduler": "RePaintPipeline, which blends a known image in and goes back in time between the steps",
    "ScoreSdeVeScheduler": "ScoreSdeVePipeline, which corrects the sample before each step with more model calls",
    "VQDiffusionScheduler": "VQDiffusionPipeline, whose samples are classes of image patches and not numbers",
}
"""Schedulers that need another loop with default options."""

REQUIRED = {"VQDiffusionScheduler": {"num_vec_classes": 9}}
"""Options without a default."""

ONE_STAGE = {"stages": 1}
LEVELS = {"num_inference_steps": 5, "sigmas": np.linspace(0.999, 0.0, 6)[:-1]}
SUITABLE = {
    "ConsistencyDecoderScheduler": ({}, {"num_inference_steps": 2}),
    "DPMSolverSDEScheduler": ({"noise_sampler_seed": 0}, {"num_inference_steps": 5}),  # diffusers draws a seed else
    "HeliosDMDScheduler": (ONE_STAGE, LEVELS),
    "HeliosScheduler": (ONE_STAGE, LEVELS),
    "SCMScheduler": ({}, {"num_inference_steps": 2}),
}
"""Options and arguments of `set_timesteps` of schedulers for which the defaults and five steps do not do."""


def _case(declaration, changes, plan, **step):
    options = asdict(scheduler_class(declaration.name)(**changes).options)
    return Case(options=options, set_timesteps=plan, step=step, batch=3, begin=0.0)


def _net(name, scheduler, sample, timestep):
    """A model of the output that the scheduler wants; pi-Flow's gives several outputs side by side."""
    if name == "PiflowScheduler":
        times = [float(timestep) - 7.0 * place for place in range(scheduler.options.n_grid)]
        return np.concatenate([model(sample, time, SHAPE[0]) for time in times], axis=-1)
    return model(sample, float(timestep), scheduler.output_channels(SHAPE[0])[-1])


def _samples(declaration, case, **arguments):
    """The samples of the loop that every pipeline runs."""
    scheduler = scheduler_class(declaration.name)(**case.options)
    channels = SHAPE[-1] if declaration.name == "PiflowScheduler" else SHAPE[0]
    scheduler.check_loop(
        channels=channels, output_channels=scheduler.output_channels(channels)[0], eta=case.step.get("eta", 0.0)
    )
    scheduler.set_timesteps(**case.set_timesteps)
    generator, sample = RoundedNoise(SEED), start(case.batch) * scheduler.init_noise_sigma
    sample = sample.astype(np.float32)
    for timestep in scheduler.model_timesteps:
        output = _net(declaration.name, scheduler, scheduler.scale_model_input(sample, timestep), timestep)
        sample = scheduler.loop_step(output, timestep, sample, generator=generator, **arguments).prev_sample
        yield sample


def _same_as_diffusers(declaration, case, **arguments):
    theirs = run_theirs(declaration, case)
    ours = list(_samples(declaration, case, **arguments))
    for i, (got, expected) in enumerate(zip(ours, theirs.samples, strict=True)):
        allowance = 1e-5 * theirs.peaks[i] * declaration.magnification(theirs.scheduler)
        assert error_beyond(got, expected, allowance) <= declaration.tolerance, f"sample after step {i}"


def test_the_loop_ends_as_that_of_diffusers_or_is_refused_before_the_first_step(declaration):
    """With default options and a model of suitable output, to the last step."""
    name = declaration.name
    if name in NEEDED_LOOPS:
        scheduler = scheduler_class(name)(**REQUIRED.get(name, {}))
        with pytest.raises(
            InputError, match=f"{name} cannot run in this denoising loop. It needs the loop of {_needed(name)}"
        ):
            scheduler.check_loop(channels=3, output_channels=3)
    if name not in NEEDED_LOOPS or name in SUITABLE:
        _same_as_diffusers(declaration, _case(declaration, *SUITABLE.get(name, ({}, {"num_inference_steps": 5}))))


def _needed(name):
    return f"{NEEDED_LOOPS[name]}. Choose another scheduler: 'diffoundry schedulers DIR' lists those that fit"


@pytest.mark.parametrize("name", ["ConsistencyDecoderScheduler", "SCMScheduler"])
def test_a_number_of_steps_that_the_scheduler_has_no_timesteps_for_is_refused(name):
    scheduler = scheduler_class(name)()
    scheduler.check_loop(channels=3, output_channels=3)
    with pytest.raises(InputError, match=f"{name}.set_timesteps: "):
        scheduler.set_timesteps(20)


def _declared(all_declarations, name):
    return next(declaration for declaration in all_declarations if declaration.name == name)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDIMParallelScheduler", "TCDScheduler"])
def test_eta_reaches_the_step(all_declarations, name):
    declaration = _declared(all_declarations, name)
    case = _case(declaration, {}, {"num_inference_steps": 5}, eta=0.5)
    _same_as_diffusers(declaration, case, eta=0.5)


def test_schedulers_that_take_eta_are_those_of_diffusers(declaration):
    """CogVideoX's name it too, but never read it."""
    theirs = getattr(getattr(reference, declaration.name), "step", None)
    takes = False
    if theirs is not None:
        tree = ast.parse(textwrap.dedent(inspect.getsource(theirs)))
        read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        takes = "eta" in read & set(inspect.signature(theirs).parameters)
    assert scheduler_class(declaration.name).takes_eta == takes


def test_models_that_a_scheduler_is_for_are_named_where_the_pipelines_of_diffusers_cannot_run_it(declaration):
    """Their loops read `init_noise_sigma` and `order`, and call `step` with the output, the timestep and the sample."""
    ours, name = scheduler_class(declaration.name), declaration.name
    if name in NEEDED_LOOPS and not name.startswith("Helios"):
        return
    theirs = getattr(reference, name)()
    step = getattr(theirs, "step", None)
    runs = hasattr(theirs, "order") and step is not None
    runs = runs and list(inspect.signature(step).parameters)[:3] == ["model_output", "timestep", "sample"]
    assert ours.runs_unscaled == runs
    assert (ours.made_for is None) == (runs and hasattr(theirs, "init_noise_sigma"))


def test_zero_eta_is_ignored_by_the_others_and_another_one_refused():
    scheduler = scheduler_class("EulerDiscreteScheduler")()
    scheduler.check_loop(eta=0.0)
    scheduler.set_timesteps(1)
    sample = start(1)
    result = scheduler.copy().loop_step(sample, scheduler.timesteps[0], sample, eta=0.0).prev_sample
    np.testing.assert_array_equal(result, scheduler.step(sample, scheduler.timesteps[0], sample).prev_sample)
    with pytest.raises(
        InputError, match=r"EulerDiscreteScheduler has no eta, but eta is 0.5. Leave it out, or choose DDIMScheduler"
    ):
        scheduler.check_loop(eta=0.5)


@pytest.mark.parametrize(
    ("name", "options", "accepted"),
    [
        ("DDPMScheduler", {"variance_type": "learned_range"}, [6]),
        ("UnCLIPScheduler", {"variance_type": "learned_range"}, [6]),
        ("DPMSolverMultistepScheduler", {"variance_type": "learned_range"}, [3, 6]),
        ("DPMSolverMultistepScheduler", {"variance_type": "learned", "prediction_type": "sample"}, [3]),
        ("PiflowScheduler", {"n_grid": 4}, [12]),
        ("EulerDiscreteScheduler", {}, [3]),
    ],
)
def test_a_model_of_another_output_is_refused(name, options, accepted):
    scheduler = scheduler_class(name)(**options)
    for channels in (3, 6, 12):
        if channels in accepted:
            scheduler.check_loop(channels=3, output_channels=channels)
            continue
        with pytest.raises(
            InputError,
            match=f"{name} needs a model with {' or '.join(map(str, accepted))} output channels for a sample of 3 "
            f"channels, but this model has {channels}. Choose another scheduler",
        ):
            scheduler.check_loop(channels=3, output_channels=channels)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DPMSolverMultistepScheduler", {"variance_type": "learned_range"}),
        ("DDPMScheduler", {"variance_type": "learned"}),
    ],
)
def test_models_with_a_learned_variance_finish_the_loop(all_declarations, name, options):
    declaration = _declared(all_declarations, name)
    _same_as_diffusers(declaration, _case(declaration, options, {"num_inference_steps": 5}))


MU_TAKERS = [
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "HeliosDMDScheduler",
    "HeliosScheduler",
    "LTXEulerAncestralRFScheduler",
    "UniPCMultistepScheduler",
]


def test_mu_is_taken_with_dynamic_shifting_and_refused_by_the_others(declaration):
    name = declaration.name
    config = {**REQUIRED.get(name, {}), "use_dynamic_shifting": True, "use_flow_sigmas": True, "stages": 1}
    if name == "DEISMultistepScheduler":
        config["solver_type"] = "logrho"
    scheduler = scheduler_class(name).from_config(config)
    assert scheduler.takes_mu == (name in MU_TAKERS)
    if scheduler.takes_mu:
        scheduler.set_timesteps(4, mu=0.5)
        weaker = scheduler.timesteps
        scheduler.set_timesteps(4, mu=1.5)
        assert not np.array_equal(weaker, scheduler.timesteps)
        scheduler.check_loop(mu=0.5)
        return
    if name not in NEEDED_LOOPS:
        with pytest.raises(InputError, match=f"{name} ignores mu, but mu is 0.5. Leave it out, or choose a flow-match"):
            scheduler.check_loop(mu=0.5)
    if name not in MU_TAKERS:
        with pytest.raises(InputError, match=f"{name}.set_timesteps does not take 'mu'. It takes "):
            scheduler.set_timesteps(4, mu=0.5)


def test_mu_is_ignored_where_dynamic_shifting_is_off():
    scheduler = scheduler_class("FlowMatchEulerDiscreteScheduler")()
    assert not scheduler.takes_mu
    with pytest.raises(InputError, match="FlowMatchEulerDiscreteScheduler ignores mu"):
        scheduler.check_loop(mu=0.5)


@pytest.mark.parametrize("tokens", [256, 1024, 4096, 5000])
@pytest.mark.parametrize(
    "lines", [{}, {"base_shift": 0.3, "max_shift": 1.6, "base_image_seq_len": 64}, {"max_image_seq_len": 1000}]
)
def test_mu_of_an_image_is_that_of_the_pipelines_of_diffusers(tokens, lines):
    scheduler = scheduler_class("FlowMatchEulerDiscreteScheduler")(use_dynamic_shifting=True, **lines)
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    expected = calculate_shift(tokens, *(scheduler.config[name] for name in names))
    assert mu_for(scheduler, tokens) == expected
    assert mu_for(scheduler_class("FlowMatchEulerDiscreteScheduler")(**lines), tokens) is None
    unset = scheduler_class("FlowMatchEulerDiscreteScheduler").from_config(scheduler.config, max_shift=None)
    assert mu_for(unset, 4096) == calculate_shift(4096, *(scheduler.config[name] for name in names[:3]), 1.15)


@pytest.mark.parametrize("name", ["IPNDMScheduler", "KarrasVeScheduler", "SCMScheduler", "ScoreSdeVpScheduler"])
def test_schedulers_that_cannot_add_noise_say_so(name):
    scheduler = scheduler_class(name)()
    scheduler.set_timesteps(2)
    with pytest.raises(
        InputError, match=f"{name} cannot add noise to an image. Choose another scheduler: 'diffoundry schedulers"
    ):
        scheduler.add_noise(start(1), start(1), scheduler.timesteps[:1])
