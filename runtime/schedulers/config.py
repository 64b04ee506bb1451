"""Scheduler configs as diffusers reads and writes them: known keys, JSON file, read-only view."""

import json
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import shorten
from diffoundry.runtime.formats.untrusted_json import load_json

__all__ = [
    "CONFIG_NAME",
    "DIFFUSERS_VERSION",
    "KARRAS_COMPATIBLES",
    "KNOWN_OPTIONS",
    "SchedulerConfig",
    "read_config",
    "without_defaults",
    "write_config",
]

CONFIG_NAME = "scheduler_config.json"
DIFFUSERS_VERSION = "0.42.1"  # the version whose behaviour is followed, written as `_diffusers_version`

KARRAS_COMPATIBLES = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "DPMSolverSDEScheduler",
    "EDMEulerScheduler",
)
"""The classes that exchange configs with each other; diffusers: `KarrasDiffusionSchedulers`."""

_RETIRED_OPTIONS = frozenset({"tensor_format", "timestep_values", "timesteps"})
"""Arguments of schedulers in diffusers 0.0 to 0.2, which first published checkpoints hold. diffusers ignores them."""

KNOWN_OPTIONS = _RETIRED_OPTIONS | frozenset(
    """
    algorithm_type alpha_cum_end alpha_cum_start base_image_seq_len base_shift beta_end beta_max beta_min
    beta_schedule beta_start block_length clip_denoised clip_sample clip_sample_range correct_steps
    corrector_k corrector_order corrector_selection corrector_selection_tau corrector_steps
    disable_corrector dynamic_thresholding_ratio editing_threshold entropy_bound eps eta euler_at_final
    final_sigmas_type final_step_size_scale flow_shift gamma gamma_cum_end gamma_cum_start
    interpolation_type invert_sigmas lambda_min_clipped lower_order_final mask_token_id masking_schedule
    max_image_seq_len max_shift minimal_topk n_grid noise_mode noise_sampler_seed num_inference_steps
    num_policy_substeps num_train_timesteps num_vec_classes original_inference_steps predict_x0
    prediction_type predictor_order rescale_betas_zero_snr rho s s_churn s_max s_min s_noise
    sample_max_value sampling_eps scale_factors scaler schedule_mode scheduler_type set_alpha_to_one
    set_alpha_to_zero shift shift_terminal sigma_data sigma_max sigma_min sigma_schedule skip_prk_steps snr
    snr_shift_scale solver_order solver_p solver_type stage_range stages steps_offset stochastic_sampling
    t_lim_ode t_lim_ode_below t_max t_min tail_step_multiplier tail_steps tau_func threshold thresholding
    time_shift_type timestep_scaling timestep_spacing timestep_type trained_betas tsr_k tsr_sigma
    upscale_mode use_beta_sigmas use_dynamic_shifting use_exponential_sigmas use_flow_sigmas
    use_karras_sigmas use_lu_lambdas variance_type
    """.split()  # noqa: SIM905 - a hundred names read better as text
)
"""Every argument of every scheduler of diffusers, and those of its first versions.

A config may hold those of another class: they are kept and ignored. A key outside this set is refused: its effect is
unknown."""


class SchedulerConfig(Mapping[str, Any]):
    """Read-only mapping with attribute access: a scheduler's options, and the keys kept for compatible classes.

    `_use_default_values` lists the options that were not given, so that another class made from this config takes
    its own defaults for them, as in diffusers.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_values", dict(values))

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        # copy and pickle look for attributes before `_values` exists
        values: dict[str, Any] = object.__getattribute__(self, "__dict__").get("_values", {})
        if name not in values:
            raise AttributeError(f"the scheduler config has no option '{name}'")
        return values[name]

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"the scheduler config is read-only: use from_config(config, {name}=...) for a changed copy"
        )

    def __repr__(self) -> str:
        return f"SchedulerConfig({self._values!r})"


def read_config(source: Mapping[str, Any] | str | PathLike[str]) -> dict[str, Any]:
    """The raw config of a mapping, a JSON file, or a folder that holds `scheduler_config.json`.

    Raises:
        ConfigError: the file is missing or is not a JSON object.
    """
    if isinstance(source, Mapping):
        return dict(source)
    path = Path(source)
    if path.is_dir():
        path = path / CONFIG_NAME
    try:
        content = load_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(
            f"scheduler config {path} cannot be read ({error.strerror}), expected a {CONFIG_NAME} or its folder."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"scheduler config {path} is not JSON ({error}), expected the file that diffusers writes."
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"scheduler config {path} holds a {type(content).__name__}, expected a JSON object.")
    return content


def write_config(config: Mapping[str, Any], folder: str | PathLike[str]) -> Path:
    """Write `scheduler_config.json` into a folder, made when missing; byte for byte what diffusers writes."""
    path = Path(folder) / CONFIG_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(config), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path


def without_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without the options that its own class had filled in from defaults.

    Raises:
        ConfigError: its list of them is none.
    """
    unset = config.get("_use_default_values") or ()
    if not isinstance(unset, Sequence) or isinstance(unset, str) or not all(isinstance(name, str) for name in unset):
        raise ConfigError(
            f"scheduler config: '_use_default_values' is {shorten(unset)}, expected a list of option names."
        )
    return {key: value for key, value in config.items() if key not in (*unset, "_use_default_values")}
