"""Names of schedulers: diffusers' class names, and the words of A1111, k-diffusion, ComfyUI and InvokeAI."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, TypeAlias

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.base import Scheduler
from diffoundry.runtime.schedulers.registry import scheduler_class, scheduler_names
from diffoundry.runtime.suggest import did_you_mean

__all__ = [
    "SchedulerChoice",
    "SchedulerInput",
    "fitting_schedulers",
    "make_scheduler",
    "resolve_scheduler",
    "sampler_labels",
    "scheduler_words",
]

SchedulerInput: TypeAlias = str | type[Scheduler[Any]] | Scheduler[Any]
"""A name as in `resolve_scheduler`, a class, or an instance."""

_SDE = {"algorithm_type": "sde-dpmsolver++"}

_WORDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": ("DDIM", {}),
    "ddpm": ("DDPM", {}),
    "deis": ("DEISMultistep", {}),
    "dpm2": ("KDPM2Discrete", {}),
    "dpm2_a": ("KDPM2AncestralDiscrete", {}),
    "dpmpp_2m": ("DPMSolverMultistep", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistep", _SDE),
    "dpmpp_2m_sde_heun": ("DPMSolverMultistep", {**_SDE, "solver_type": "heun"}),
    "dpmpp_2s": ("DPMSolverSinglestep", {}),
    "dpmpp_3m": ("DPMSolverMultistep", {"solver_order": 3}),
    "dpmpp_3m_sde": ("DPMSolverMultistep", {**_SDE, "solver_order": 3}),
    "dpmpp_sde": ("DPMSolverSinglestep", {}),
    "euler": ("EulerDiscrete", {}),
    "euler_a": ("EulerAncestralDiscrete", {}),
    "heun": ("HeunDiscrete", {}),
    "ipndm": ("IPNDM", {}),
    "lcm": ("LCM", {}),
    "lms": ("LMSDiscrete", {}),
    "plms": ("PNDM", {"skip_prk_steps": True}),
    "pndm": ("PNDM", {}),
    "sa_solver": ("SASolver", {}),
    "tcd": ("TCD", {}),
    "unipc": ("UniPCMultistep", {}),
}
"""Short name to the stem of a class and the options that it adds to the config.

diffusers: docs/source/en/api/schedulers/overview.md, which has no 3M; those follow `solver_order` there.
"""

_FLOW_WORDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "euler": ("FlowMatchEulerDiscrete", {}),
    "heun": ("FlowMatchHeunDiscrete", {}),
    "lcm": ("FlowMatchLCM", {}),
}
"""The same for flow-matching models such as Stable Diffusion 3, where the word means another class."""

_ALIASES: Mapping[str, str] = {
    "dpm2ancestral": "dpm2_a",
    "dpm2a": "dpm2_a",
    "dpmpp2msdegpu": "dpmpp_2m_sde",
    "dpmpp3msdegpu": "dpmpp_3m_sde",
    "dpmppsdegpu": "dpmpp_sde",
    "dpmsolverpp": "dpmpp_2m",
    "eulerancestral": "euler_a",
    "kdpm2a": "dpm2_a",
    "kdpm2ancestral": "dpm2_a",
    "kdpm2": "dpm2",
    "unipcbh2": "unipc",
}
"""Other spellings, without separators."""

_SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "karras": {"use_karras_sigmas": True},
    "exponential": {"timestep_spacing": "linspace", "use_exponential_sigmas": True},
    "beta": {"timestep_spacing": "linspace", "use_beta_sigmas": True},
    "sgmuniform": {"timestep_spacing": "trailing"},
    "simple": {"timestep_spacing": "trailing"},
    "normal": {},
    "automatic": {},
}
"""Last word of a name to the options of its noise schedule; diffusers: the second table of the same page."""

_LABELS = {
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun",
    "dpmpp_3m": "DPM++ 3M",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "plms": "PLMS",
    "unipc": "UniPC",
}
"""Short names to the words of A1111; the others are written in capitals there."""

_MISSING: Mapping[str, str] = {
    "dpmpp2sa": "'dpmpp_2s' is very similar",
    "dpmpp2sancestral": "'dpmpp_2s' is very similar",
    "dpmadaptive": "choose another one, such as 'dpmpp_2m'",
    "dpmfast": "choose another one, such as 'dpmpp_2m'",
}
"""Samplers of k-diffusion that diffusers does not have, to the advice."""


class SchedulerChoice(NamedTuple):
    """The meaning of a scheduler's name.

    Attributes:
        cls: The class.
        options: Options that the name adds to the checkpoint's config, such as {"use_karras_sigmas": True}.
    """

    cls: type[Scheduler[Any]]
    options: Mapping[str, Any]


def resolve_scheduler(name: str, *, flow: bool = False, fitting: Iterable[str] | None = None) -> SchedulerChoice:
    """Return the class and the options that a scheduler's name means.

    Case, spaces, "-", "_" and the ending "Scheduler" do not count. "EulerDiscreteScheduler", "eulerdiscrete", "euler",
    "Euler a", "DPM++ 2M Karras" and "dpmpp_2m_karras" are names. Every name takes a noise schedule as its last word:
    karras, exponential, beta, sgm_uniform or simple.

    Args:
        name: As the user typed it.
        flow: True for a flow-matching model such as Stable Diffusion 3, where "euler" is FlowMatchEulerDiscrete.
        fitting: Class names that an error may suggest, as `fitting_schedulers` returns them; None for all.

    Raises:
        InputError: No scheduler has this name, or the class has no such noise schedule. The message suggests a name.
    """
    compact = _compact(name)
    if compact in _MISSING or _split(compact)[0] in _MISSING:
        advice = _MISSING.get(compact) or _MISSING[_split(compact)[0]]
        raise InputError(f"scheduler: got {name!r}, which diffusers does not have; {advice}")
    table = _table(flow=flow)
    for stem, schedule in ((compact, ""), _split(compact)):
        found = table.get(stem) or table.get(re.sub(r"^(sample|k)", "", stem))
        if found is not None:
            options = {**found[1], **_SCHEDULES.get(schedule, {})}
            return SchedulerChoice(_checked_class(found[0], options, name, schedule), options)
    words = scheduler_words(flow=flow, fitting=fitting)
    classes = [known.removesuffix("Scheduler") for known in (scheduler_names() if fitting is None else fitting)]
    raise InputError(
        f"scheduler: got {name!r}.{_suggest(name, words, classes)} Expected one of {', '.join(words)}, or a class name "
        f"such as {'FlowMatchEulerDiscrete' if flow else 'EulerDiscrete'}"
    )


def scheduler_words(*, flow: bool = False, fitting: Iterable[str] | None = None) -> tuple[str, ...]:
    """Return the short names, sorted; with `fitting` only those of these classes."""
    table = {**_WORDS, **(_FLOW_WORDS if flow else {})}
    known = None if fitting is None else set(fitting)
    return tuple(word for word, (stem, _) in sorted(table.items()) if known is None or f"{stem}Scheduler" in known)


def fitting_schedulers(*, flow: bool = False) -> tuple[str, ...]:
    """Return the class names of the schedulers that can run a pipeline's loop.

    Args:
        flow: As in `resolve_scheduler`.
    """
    return tuple(name for name in scheduler_names() if _fits(scheduler_class(name), flow=flow))


def make_scheduler(scheduler: SchedulerInput | Any, config: Mapping[str, Any], *, flow: bool = False) -> Scheduler[Any]:
    """Return a scheduler of a run's own.

    Args:
        scheduler: A name as in `resolve_scheduler`, a class, or an instance. Names and classes take over `config`; an
            instance keeps its own. Classes and instances of diffusers become ours of the same name and config.
        config: The checkpoint's.
        flow: As in `resolve_scheduler`.

    Raises:
        InputError: Nothing of these.
        ConfigError: The class refuses the config.
    """
    if isinstance(scheduler, Scheduler):
        return scheduler.copy()
    if isinstance(scheduler, type) and issubclass(scheduler, Scheduler) and hasattr(scheduler, "Options"):
        return scheduler.from_config(config)
    if isinstance(scheduler, str):
        try:
            choice = resolve_scheduler(scheduler, flow=flow)
        except InputError:
            choice = resolve_scheduler(scheduler, flow=flow, fitting=fitting_schedulers(flow=flow))
        return choice.cls.from_config(config, **choice.options)
    cls = scheduler if isinstance(scheduler, type) else type(scheduler)
    if cls.__module__.startswith("diffusers.") and cls.__name__ in scheduler_names():
        own = config if isinstance(scheduler, type) else dict(scheduler.config)
        return scheduler_class(cls.__name__).from_config(own)
    got = scheduler if isinstance(scheduler, type) else cls.__name__
    raise InputError(
        f"scheduler: got {got}, expected a name such as 'euler', or a class or an instance of "
        f"diffoundry.runtime.schedulers"
    )


def sampler_labels(scheduler: Scheduler[Any]) -> tuple[str, str]:
    """Return the sampler and the schedule type of a scheduler in the words of A1111: ("DPM++ 2M", "Karras").

    A scheduler without such a word is called by its class name, and a schedule without one is "Automatic".
    """
    stem, config = type(scheduler).__name__.removesuffix("Scheduler"), scheduler.config
    table = [*_FLOW_WORDS.items(), *_WORDS.items()]
    fitting = [
        (len(options), word)
        for word, (known, options) in table
        if known == stem and all(config.get(name) == value for name, value in options.items())
    ]
    labelled = [item for item in fitting if item[1] in _LABELS] or fitting
    word = max(labelled, key=lambda item: item[0])[1] if labelled else None
    named = ("karras", "exponential", "beta")
    schedule = next((word.capitalize() for word in named if config.get(f"use_{word}_sigmas")), "Automatic")
    return (stem if word is None else _LABELS.get(word, word.upper())), schedule


def _compact(name: str) -> str:
    """Return a name in lower case without separators, and without "Scheduler"; "_k" at the end means Karras."""
    lower = re.sub(r"[ _-]k$", "karras", name.strip().lower()).replace("++", "pp")
    return re.sub(r"[^a-z0-9]", "", lower).removesuffix("scheduler")


def _split(compact: str) -> tuple[str, str]:
    """Split the noise schedule off: "dpmpp2mkarras" is ("dpmpp2m", "karras")."""
    schedule = next((word for word in _SCHEDULES if compact.endswith(word)), "")
    return compact.removesuffix(schedule), schedule


def _table(*, flow: bool) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return all names without separators, each with the stem of its class and its options."""
    stems = [name.removesuffix("Scheduler") for name in scheduler_names()]
    words = {**_WORDS, **(_FLOW_WORDS if flow else {})}
    return {
        **{_compact(stem): (stem, {}) for stem in stems},
        **{alias: words[word] for alias, word in _ALIASES.items()},
        **{_compact(word): meaning for word, meaning in words.items()},
    }


def _checked_class(stem: str, options: Mapping[str, Any], name: str, schedule: str) -> type[Scheduler[Any]]:
    """Return the class, after a check that it has the options that a name adds."""
    cls = scheduler_class(f"{stem}Scheduler")
    lacking = sorted(set(options) - {field.name for field in fields(cls.Options)})
    if lacking:
        raise InputError(
            f"scheduler: got {name!r}, but {cls.__name__} has no option {lacking[0]!r}; leave {schedule!r} out"
        )
    return cls


def _fits(cls: type[Scheduler[Any]], *, flow: bool) -> bool:
    return cls.needed_loop is None and (cls.made_for is None or (cls.runs_unscaled and flow))


def _suggest(name: str, words: Sequence[str], classes: Iterable[str]) -> str:
    """Suggest the nearest short name, or the nearest or first longer class name."""
    typed = re.sub(r"[ -]", "_", name.strip().lower()).replace("++", "pp")
    lower = {stem.lower(): stem for stem in classes}
    stem = typed.removesuffix("scheduler")
    longer = next((lower[known] for known in sorted(lower, key=len) if stem and known.startswith(stem)), None)
    if longer:
        return f" Did you mean {longer!r}?"
    known = [*words, *(f"{word}_{schedule}" for word in words for schedule in ("karras", "exponential", "beta"))]
    suggestion = did_you_mean(typed, known) or did_you_mean(stem, lower)
    return re.sub(r"'(.*)'", lambda found: repr(lower.get(found[1], found[1])), suggestion)
