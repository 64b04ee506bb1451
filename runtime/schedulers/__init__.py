"""Schedulers of diffusers in NumPy: same names, same configs, same numbers, no torch.

    from diffoundry.runtime.schedulers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler.from_config("sd15/scheduler")
    scheduler.set_timesteps(20)
    sample = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = model(scheduler.scale_model_input(sample, t), t)
        sample = scheduler.step(output, t, sample).prev_sample

`scheduler_from_config` takes the class from the config. `scheduler_names` lists the classes, which are attributes of
this package, loaded on first use. `resolve_scheduler` reads other names: "euler_a", "DPM++ 2M Karras".
`lower` turns a planned run into a table that any language can execute. A loop for every scheduler calls `check_loop`
and `loop_step` (`loop_interface.py`), with mu from `mu_for`.
"""

from typing import Any

from diffoundry.runtime.schedulers.base import Scheduler, StepResult
from diffoundry.runtime.schedulers.dynamic_shift import mu_for
from diffoundry.runtime.schedulers.names import (
    SchedulerChoice,
    SchedulerInput,
    fitting_schedulers,
    make_scheduler,
    resolve_scheduler,
    sampler_labels,
    scheduler_words,
)
from diffoundry.runtime.schedulers.plans.linear_form import NotAffineError
from diffoundry.runtime.schedulers.plans.lowering import lower
from diffoundry.runtime.schedulers.plans.sampling_plan import PlanStep, SamplingPlan, execute
from diffoundry.runtime.schedulers.registry import (
    register_scheduler,
    scheduler_class,
    scheduler_from_config,
    scheduler_names,
)

__all__ = [
    "NotAffineError",
    "PlanStep",
    "SamplingPlan",
    "Scheduler",
    "SchedulerChoice",
    "SchedulerInput",
    "StepResult",
    "execute",
    "fitting_schedulers",
    "lower",
    "make_scheduler",
    "mu_for",
    "register_scheduler",
    "resolve_scheduler",
    "sampler_labels",
    "scheduler_class",
    "scheduler_from_config",
    "scheduler_names",
    "scheduler_words",
]


def __getattr__(name: str) -> Any:
    if name not in scheduler_names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return scheduler_class(name)


def __dir__() -> list[str]:
    return sorted({*__all__, *scheduler_names()})
