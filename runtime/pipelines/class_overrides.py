"""Corrections of old configs, as each pipeline class of diffusers makes them in its `__init__`.

They belong to the class, not to the family: `StableDiffusionInstructPix2PixPipeline`, the ControlNet pipelines, Stable
Diffusion XL and 3 and `LatentConsistencyModelPipeline` take every config as it is.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from diffoundry.runtime.schedulers import Scheduler, scheduler_from_config
from diffoundry.runtime.schedulers.config import SchedulerConfig

__all__ = ["open_scheduler", "override_sample_size"]

Config = Mapping[str, Any]


def _set_steps_offset(config: Config) -> dict[str, Any]:
    return {"steps_offset": 1} if config.get("steps_offset", 1) != 1 else {}


def _clear_clip_sample(config: Config) -> dict[str, Any]:
    return {"clip_sample": False} if config.get("clip_sample", False) is True else {}


def _set_skip_prk_steps(config: Config) -> dict[str, Any]:
    return {"skip_prk_steps": True} if config.get("skip_prk_steps", True) is False else {}


_SCHEDULER: Mapping[str, tuple[Callable[[Config], dict[str, Any]], ...]] = {
    **{
        f"StableDiffusion{form}Pipeline": (_set_steps_offset, _clear_clip_sample)
        for form in ("", "Img2Img", "PAG", "PAGImg2Img", "PAGInpaint")
    },
    "StableDiffusionInpaintPipeline": (_set_steps_offset, _set_skip_prk_steps),
}
"""Class to its corrections of the scheduler's config."""

_SAMPLE_SIZE = 64
"""The smallest `sample_size` that a UNet saved before diffusers 0.9 keeps."""

_CORRECTS_SAMPLE_SIZE = (
    *_SCHEDULER,
    "StableDiffusionDepth2ImgPipeline",
    "StableDiffusionImageVariationPipeline",
)
_CHANGED_IN = (0, 9)


def open_scheduler(config: Config, pipeline_class: str) -> Scheduler[Any]:
    """Return the scheduler of a checkpoint, corrected as a pipeline class does it.

    Its config then holds the corrections, as in diffusers: a scheduler made from it takes its own defaults for options
    that the checkpoint does not name.

    Args:
        config: The checkpoint's.
        pipeline_class: Name of the class of diffusers that does what the call does.
    """
    own = scheduler_from_config(config)
    overrides: dict[str, Any] = {}
    for correct in _SCHEDULER.get(pipeline_class, ()):
        overrides |= correct(own.config)
    if not overrides:
        return own
    known = own.config
    scheduler = scheduler_from_config(config, **overrides)
    scheduler.config = SchedulerConfig({**known, **overrides})
    return scheduler


def override_sample_size(pipeline_class: str, size: tuple[int, int] | None, version: object) -> tuple[int, int] | None:
    """Return the sides of the latents that a pipeline class takes for the denoiser's own.

    Args:
        pipeline_class: As in `open_scheduler`.
        size: `sample_size` of the denoiser's config.
        version: `_diffusers_version` of the denoiser's config; None where it names none.
    """
    if pipeline_class not in _CORRECTS_SAMPLE_SIZE or size is None or size[0] != size[1] or size[0] >= _SAMPLE_SIZE:
        return size
    found = re.match(r"(\d+)\.(\d+)", str(version))
    old = found is not None and tuple(map(int, found.groups())) < _CHANGED_IN
    return (_SAMPLE_SIZE, _SAMPLE_SIZE) if old else size
