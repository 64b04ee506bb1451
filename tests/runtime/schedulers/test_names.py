"""Names of schedulers: diffusers' classes, and the words of A1111, k-diffusion, ComfyUI and InvokeAI."""

import re

import diffusers
import pytest

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers import EulerDiscreteScheduler, scheduler_class, scheduler_names
from diffoundry.runtime.schedulers.names import (
    fitting_schedulers,
    make_scheduler,
    resolve_scheduler,
    sampler_labels,
    scheduler_words,
)

KARRAS = {"use_karras_sigmas": True}
SDE = {"algorithm_type": "sde-dpmsolver++"}

TABLE = {
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", KARRAS),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", SDE),
    "DPM++ 2M SDE Karras": ("DPMSolverMultistepScheduler", {**SDE, **KARRAS}),
    "DPM++ SDE": ("DPMSolverSinglestepScheduler", {}),
    "DPM++ SDE Karras": ("DPMSolverSinglestepScheduler", KARRAS),
    "DPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM2 Karras": ("KDPM2DiscreteScheduler", KARRAS),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "DPM2 a Karras": ("KDPM2AncestralDiscreteScheduler", KARRAS),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "LMS Karras": ("LMSDiscreteScheduler", KARRAS),
}
"""The table of A1111 names in diffusers' documentation, docs/source/en/api/schedulers/overview.md."""

SCHEDULES = {
    "karras": KARRAS,
    "sgm_uniform": {"timestep_spacing": "trailing"},
    "simple": {"timestep_spacing": "trailing"},
    "exponential": {"timestep_spacing": "linspace", "use_exponential_sigmas": True},
    "beta": {"timestep_spacing": "linspace", "use_beta_sigmas": True},
}
"""The table of schedules below it."""

OTHER_WORDS = {
    "euler_a": "Euler a",
    "k_euler_a": "Euler a",
    "EULER-ANCESTRAL": "Euler a",
    "sample_euler": "Euler",
    "eulerdiscretescheduler": "Euler",
    "EulerDiscrete": "Euler",
    "euler normal": "Euler",
    "dpm++2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "dpmpp_2m_k": "DPM++ 2M Karras",
    "dpmpp_2m_sde_gpu": "DPM++ 2M SDE",
    "dpmpp_sde_karras": "DPM++ SDE Karras",
    "DPMSolver++": "DPM++ 2M",
    "dpm2": "DPM2",
    "dpm_2": "DPM2",
    "k_dpm_2_ancestral": "DPM2 a",
    "kdpm_2_a_k": "DPM2 a Karras",
}


def meaning(name, **where):
    choice = resolve_scheduler(name, **where)
    return choice.cls.__name__, dict(choice.options)


def test_names_mean_what_the_table_of_diffusers_says():
    assert {name: meaning(name) for name in TABLE} == TABLE
    assert {name: meaning(name) for name in OTHER_WORDS} == {name: TABLE[word] for name, word in OTHER_WORDS.items()}
    schedules = {word: meaning(f"euler_{word}") for word in SCHEDULES}
    assert schedules == {word: ("EulerDiscreteScheduler", options) for word, options in SCHEDULES.items()}
    for name in scheduler_names():
        stem = name.removesuffix("Scheduler")
        assert [meaning(word) for word in (name, stem, stem.lower())] == [(name, {})] * 3, name


def test_every_short_name_makes_the_scheduler_of_diffusers():
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    for word in [*scheduler_words(), "dpmpp_2m_karras", "dpmpp_3m_sde_exponential", "unipc_beta"]:
        name, options = meaning(word)
        ours, theirs = make_scheduler(word, config), getattr(diffusers, name).from_config({**config, **options})
        assert type(ours).__name__ == name
        assert {key: theirs.config[key] for key in options} == {key: ours.config[key] for key in options}
        ours.set_timesteps(5)
        theirs.set_timesteps(5)
        assert ours.timesteps.tolist() == pytest.approx(theirs.timesteps.tolist(), rel=1e-5), word


def test_the_words_of_a_flow_matching_model():
    assert meaning("euler", flow=True) == ("FlowMatchEulerDiscreteScheduler", {})
    assert meaning("heun", flow=True)[0] == "FlowMatchHeunDiscreteScheduler"
    assert meaning("EulerDiscrete", flow=True)[0] == "EulerDiscreteScheduler"
    assert "FlowMatchEulerDiscreteScheduler" in set(fitting_schedulers(flow=True)) - set(fitting_schedulers())
    assert {"VQDiffusionScheduler", "UnCLIPScheduler"}.isdisjoint(fitting_schedulers())


def test_unknown_names_get_the_nearest_one():
    for name, sentence in {
        "eulr": "scheduler: got 'eulr'. Did you mean 'euler'? Expected one of ddim, ddpm, ",
        "dpmpp_2m_karas": "Did you mean 'dpmpp_2m_karras'?",
        "Eulerdiscret": "Did you mean 'EulerDiscrete'?",
        "DEISMulti": "Did you mean 'DEISMultistep'?",
        "qwert": "scheduler: got 'qwert'. Expected one of ddim",
        "": "scheduler: got ''. Expected one of ddim",
        "DPM++ 2S a Karras": "got 'DPM++ 2S a Karras', which diffusers does not have; 'dpmpp_2s' is very similar",
        "dpm_fast": "'dpm_fast', which diffusers does not have; choose another one, such as 'dpmpp_2m'",
        "euler_a_karras": "but EulerAncestralDiscreteScheduler has no option 'use_karras_sigmas'; leave 'karras' out",
    }.items():
        with pytest.raises(InputError, match=re.escape(sentence)):
            resolve_scheduler(name)
    with pytest.raises(InputError, match="VQDiffusio") as caught:
        make_scheduler("VQDiffusio", {})
    assert "'VQDiffusion'" not in str(caught.value)  # no pipeline can run it
    assert "flow" not in str(caught.value)


def test_classes_and_instances_are_taken():
    karras = EulerDiscreteScheduler(use_karras_sigmas=True)
    config = {"beta_end": 0.015}
    assert make_scheduler(EulerDiscreteScheduler, config).config.beta_end == 0.015
    taken = make_scheduler(karras, config)
    assert taken is not karras
    assert taken.config == karras.config
    theirs = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True, beta_end=0.018)
    assert make_scheduler(theirs, config).config["beta_end"] == 0.018
    assert make_scheduler(theirs, config).config["use_karras_sigmas"]
    assert make_scheduler(diffusers.DDIMScheduler, config).config["beta_end"] == 0.015
    for wrong, got in ((5, "int"), (int, "<class 'int'>"), (True, "bool")):
        with pytest.raises(InputError, match=f"scheduler: got {got}, expected a name such as 'euler', or a class"):
            make_scheduler(wrong, config)


def test_labels_of_a1111():
    names = {name: TABLE[name] for name in TABLE if name != "DPM++ SDE Karras"}
    for name, (cls, options) in names.items():
        label, schedule = sampler_labels(scheduler_class(cls)(**options))
        assert name in (label, f"{label} {schedule}"), name
    assert sampler_labels(scheduler_class("PNDMScheduler")(skip_prk_steps=True)) == ("PLMS", "Automatic")
    assert sampler_labels(scheduler_class("DDIMScheduler")()) == ("DDIM", "Automatic")
    assert sampler_labels(scheduler_class("FlowMatchEulerDiscreteScheduler")()) == ("Euler", "Automatic")
    assert sampler_labels(scheduler_class("ScoreSdeVpScheduler")()) == ("ScoreSdeVp", "Automatic")
