"""Facts about a model that a page needs to show its controls: defaults, schedulers, sizes and ControlNets."""

from typing import Any

from diffoundry.runtime.cli.schedulers import list_schedulers
from diffoundry.runtime.errors import DiffoundryError
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline

__all__ = ["model_facts"]

_SHOWN = ("num_inference_steps", "guidance_scale", "true_cfg_scale", "strength")


def model_facts(pipeline: PipelineBase) -> dict[str, Any]:
    """Return facts for JSON.

    Returns:
        `bundle`, the name of the folder, or of several joined by a plus; `bundles`, their names; `needs_prompt`;
        `count_argument`, the name of `n` in Python; `defaults` of a call without an image, and `edit_defaults` of one
        with an image, each empty where there is no such call; `scheduler`, the class name of the model's own, or None;
        `schedulers`, the short names of those that run; `size_step`, of which width and height are multiples, in
        pixels; `controlnets`, their names in the order of control images.
    """
    bundle = pipeline.session.bundle
    prompt = {"prompt": "a"} if pipeline.needs_prompt else {}
    try:
        default, words = list_schedulers(bundle)
    except DiffoundryError:  # a pipeline without a scheduler of its own
        default, words = None, {}
    single = isinstance(pipeline, DiffusionPipeline)
    return {
        "bundle": pipeline.bundle_name,
        "bundles": [session.bundle.root.name for session in pipeline.sessions],
        "needs_prompt": pipeline.needs_prompt,
        "count_argument": pipeline.image_count_argument,
        "defaults": _defaults(pipeline, prompt),
        "edit_defaults": _edit_defaults(pipeline, prompt),
        "scheduler": default,
        "schedulers": sorted(word for short in words.values() for word in short),
        "size_step": pipeline.scale_factor * (pipeline.denoiser.patch_size if single else 1),
        "controlnets": list(pipeline.controlnets.names) if isinstance(pipeline, DiffusionPipeline) else [],
    }


def _edit_defaults(pipeline: PipelineBase, prompt: dict[str, Any]) -> dict[str, Any]:
    if "image" not in pipeline.argument_names:
        return {}
    from PIL import Image

    try:
        height, width = pipeline.default_size
    except DiffoundryError:  # its config does not say
        return {}
    return _defaults(pipeline, {**prompt, "image": Image.new("RGB", (width, height))})


def _defaults(pipeline: PipelineBase, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of a call that has nothing but these arguments; none where it needs others."""
    try:
        checked = pipeline.check_call(arguments)[1]
    except DiffoundryError:
        return {}
    return {name: checked[name] for name in _SHOWN if isinstance(checked.get(name), int | float)}
