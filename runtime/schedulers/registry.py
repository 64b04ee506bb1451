"""The table of schedulers: class name, as in configs, to module and class."""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from os import PathLike
from typing import Any

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.schedulers.base import Scheduler
from diffoundry.runtime.schedulers.config import read_config
from diffoundry.runtime.suggest import nearest_words

__all__ = ["register_scheduler", "scheduler_class", "scheduler_from_config", "scheduler_names"]

_GROUP = "diffoundry.schedulers"
_PACKAGE = "diffoundry.runtime.schedulers.algorithms"

_SCHEDULERS = {
    "CMStochasticIterativeScheduler": f"{_PACKAGE}.cm_stochastic_iterative:CMStochasticIterativeScheduler",
    "CogVideoXDDIMScheduler": f"{_PACKAGE}.cogvideox_ddim:CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler": f"{_PACKAGE}.cogvideox_dpm:CogVideoXDPMScheduler",
    "ConsistencyDecoderScheduler": f"{_PACKAGE}.consistency_decoder:ConsistencyDecoderScheduler",
    "CosineDPMSolverMultistepScheduler": f"{_PACKAGE}.cosine_dpmsolver_multistep:CosineDPMSolverMultistepScheduler",
    "DDIMInverseScheduler": f"{_PACKAGE}.ddim_inverse:DDIMInverseScheduler",
    "DDIMParallelScheduler": f"{_PACKAGE}.parallel:DDIMParallelScheduler",
    "DDIMScheduler": f"{_PACKAGE}.ddim:DDIMScheduler",
    "DDPMParallelScheduler": f"{_PACKAGE}.parallel:DDPMParallelScheduler",
    "DDPMScheduler": f"{_PACKAGE}.ddpm:DDPMScheduler",
    "DDPMWuerstchenScheduler": f"{_PACKAGE}.ddpm_wuerstchen:DDPMWuerstchenScheduler",
    "DEISMultistepScheduler": f"{_PACKAGE}.deis_multistep:DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler": f"{_PACKAGE}.dpmsolver_multistep_inverse:DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler": f"{_PACKAGE}.dpmsolver_multistep:DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler": f"{_PACKAGE}.dpmsolver_sde:DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler": f"{_PACKAGE}.dpmsolver_singlestep:DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler": f"{_PACKAGE}.edm_dpmsolver_multistep:EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler": f"{_PACKAGE}.edm_euler:EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler": f"{_PACKAGE}.euler_ancestral_discrete:EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler": f"{_PACKAGE}.euler_discrete:EulerDiscreteScheduler",
    "FlowMapEulerDiscreteScheduler": f"{_PACKAGE}.flow_map_euler_discrete:FlowMapEulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler": f"{_PACKAGE}.flow_match_euler_discrete:FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler": f"{_PACKAGE}.flow_match_heun_discrete:FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler": f"{_PACKAGE}.flow_match_lcm:FlowMatchLCMScheduler",
    "HeliosDMDScheduler": f"{_PACKAGE}.helios_dmd:HeliosDMDScheduler",
    "HeliosScheduler": f"{_PACKAGE}.helios:HeliosScheduler",
    "HeunDiscreteScheduler": f"{_PACKAGE}.heun_discrete:HeunDiscreteScheduler",
    "IPNDMScheduler": f"{_PACKAGE}.ipndm:IPNDMScheduler",
    "KDPM2AncestralDiscreteScheduler": f"{_PACKAGE}.k_dpm_2_ancestral_discrete:KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler": f"{_PACKAGE}.k_dpm_2_discrete:KDPM2DiscreteScheduler",
    "KarrasVeScheduler": f"{_PACKAGE}.karras_ve:KarrasVeScheduler",
    "LCMScheduler": f"{_PACKAGE}.lcm:LCMScheduler",
    "LMSDiscreteScheduler": f"{_PACKAGE}.lms_discrete:LMSDiscreteScheduler",
    "LTXEulerAncestralRFScheduler": f"{_PACKAGE}.ltx_euler_ancestral_rf:LTXEulerAncestralRFScheduler",
    "MiniMaxH3Scheduler": f"{_PACKAGE}.minimax_h3:MiniMaxH3Scheduler",
    "PNDMScheduler": f"{_PACKAGE}.pndm:PNDMScheduler",
    "PiflowScheduler": f"{_PACKAGE}.piflow:PiflowScheduler",
    "RePaintScheduler": f"{_PACKAGE}.repaint:RePaintScheduler",
    "SASolverScheduler": f"{_PACKAGE}.sasolver:SASolverScheduler",
    "SCMScheduler": f"{_PACKAGE}.scm:SCMScheduler",
    "ScoreSdeVeScheduler": f"{_PACKAGE}.sde_ve:ScoreSdeVeScheduler",
    "ScoreSdeVpScheduler": f"{_PACKAGE}.sde_vp:ScoreSdeVpScheduler",
    "TCDScheduler": f"{_PACKAGE}.tcd:TCDScheduler",
    "UnCLIPScheduler": f"{_PACKAGE}.unclip:UnCLIPScheduler",
    "UniPCMultistepScheduler": f"{_PACKAGE}.unipc_multistep:UniPCMultistepScheduler",
    "VQDiffusionScheduler": f"{_PACKAGE}.vq_diffusion:VQDiffusionScheduler",
}


_REGISTERED: dict[str, type[Scheduler[Any]]] = {}
"""The classes of `register_scheduler`."""

_CUTOFF = 0.72
"""Least similarity of a misspelled name: "ddin" is near "ddim" (0.75), "discreteddim" not near "lmsdiscrete" (0.70)."""


def register_scheduler(cls: type[Scheduler[Any]]) -> type[Scheduler[Any]]:
    """Make a scheduler of your own known by its class name, in configs and to `load`; also a class decorator.

    An installed package can name it instead in the entry points of the group "diffoundry.schedulers".

    Raises:
        InputError: It is no subclass of `Scheduler`, or diffusers has a scheduler of this name.
    """
    if not (isinstance(cls, type) and issubclass(cls, Scheduler)):
        raise InputError(f"register_scheduler: got {cls!r}, expected a subclass of Scheduler")
    if cls.__name__ in _SCHEDULERS:
        raise InputError(f"register_scheduler: got {cls.__name__}, which is a scheduler of diffusers; rename the class")
    _REGISTERED[cls.__name__] = cls
    return cls


def scheduler_names() -> tuple[str, ...]:
    """The class names that `scheduler_from_config` knows, sorted."""
    return tuple(sorted({*_SCHEDULERS, *_REGISTERED}))


def scheduler_class(name: str) -> type[Scheduler[Any]]:
    """The scheduler class of a name; its module is loaded on first use.

    Raises:
        ConfigError: unknown name.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name not in _SCHEDULERS:
        for entry in entry_points(group=_GROUP, name=name):
            return register_scheduler(entry.load())
        nearest = _nearest(name)
        hint = f". Did you mean '{nearest}'?" if nearest else f", expected one of {', '.join(scheduler_names())}."
        raise ConfigError(f"scheduler '{name}' is unknown{hint}")
    module, _, attribute = _SCHEDULERS[name].partition(":")
    cls: type[Scheduler[Any]] = getattr(import_module(module), attribute)
    return cls


def _nearest(name: str) -> str | None:
    """Return the scheduler that a misspelled or shortened name means, if one is near."""
    stems = {known.removesuffix("Scheduler").lower(): known for known in _SCHEDULERS}
    stem = name.removesuffix("Scheduler").lower()
    longer = sorted((known for known in stems if stem and known.startswith(stem)), key=len)
    near = longer or nearest_words(stem, stems, 1, _CUTOFF)
    return stems[near[0]] if near else None


def scheduler_from_config(config: Mapping[str, Any] | str | PathLike[str], **overrides: Any) -> Scheduler[Any]:
    """The scheduler that a config names in `_class_name`.

    Args:
        config: a mapping, a `scheduler_config.json`, or the folder that holds it.
        overrides: options that win over the config's.

    Raises:
        ConfigError: no or an unknown `_class_name`, and what the class's `from_config` refuses.
    """
    raw = read_config(config)
    name = raw.get("_class_name")
    if not isinstance(name, str):
        raise ConfigError(
            f"scheduler config: '_class_name' is {name!r}, expected one of {', '.join(scheduler_names())}."
        )
    return scheduler_class(name).from_config(raw, **overrides)
