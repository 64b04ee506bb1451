"""Refuses one graph of a pipeline that cannot be one, before any network is traced."""

from collections.abc import Mapping
from typing import Any

from diffoundry.exporter.single_graph.request import SingleGraphRequest
from diffoundry.runtime.bundle.specs import Recipe, Variant
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.models.roles import SAFETY_CHECKER
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline
from diffoundry.runtime.pipelines.tasks.base import TextToImage
from diffoundry.runtime.pipelines.tasks.schedule import start_at_index
from diffoundry.runtime.schedulers import make_scheduler
from diffoundry.runtime.schedulers.plan_run import plan_run
from diffoundry.runtime.schedulers.plans.lowering import lower

__all__ = ["SINGLE_GRAPH_FAMILIES", "call_arguments", "check_request", "check_single_graph"]

SINGLE_GRAPH_FAMILIES = ("stable_diffusion", "latent_consistency", "stable_diffusion_xl", "stable_diffusion_3", "flux")
"""Families whose graphs the tests compare with `generate`."""

_OPTION = "--single-graph"
_STEPS = 50
"""Default of `CommonInputs.num_inference_steps`."""


def check_request(request: SingleGraphRequest, recipe: Recipe) -> Variant:
    """Return the variant whose engines become the graph: the first for ONNX Runtime.

    Raises:
        InputError: The recipe has none, or joins networks or limits sizes as one graph cannot.
    """
    if request.steps is not None and request.steps < 1:
        raise InputError(f"--steps: got {request.steps}, expected at least 1")
    joined = {
        "--controlnet": recipe.controlnets,
        "--t2i-adapter": recipe.t2i_adapters,
        "--ip-adapter": recipe.ip_adapters,
        "--attention-control": recipe.attention_control,
    }
    for option, value in joined.items():
        if value:
            raise InputError(f"{_OPTION}: got {option} as well, expected a pipeline of texts alone; leave one out")
    for option in ("partition", "split"):
        if getattr(recipe, option):
            raise InputError(
                f"{_OPTION}: got --{option} as well, expected one of them: the graph is made of whole networks; "
                f"leave one out"
            )
    if recipe.dims["batch"].max == 1:
        raise InputError(
            f"{_OPTION}: got --batch 1, expected at least 2: the graph takes any number of images; leave --batch out"
        )
    if len(recipe.buckets) > 1:
        raise InputError(f"{_OPTION}: got {len(recipe.buckets)} sizes of --buckets, expected one size")
    for variant in recipe.variants:
        if variant.target == "onnxruntime":
            return variant
    names = ", ".join(variant.target for variant in recipe.variants)
    raise InputError(f"{_OPTION}: got --target {names}, expected onnxruntime among them, which the graph is for")


def check_single_graph(pipeline: PipelineBase, request: SingleGraphRequest, recipe: Recipe) -> None:
    """Refuse a pipeline, opened without engines, that cannot become one graph.

    Raises:
        InputError: Its family, its task, a part of it, or a scheduler that the family does not take; the message names
            it.
        ConfigError: The scheduler is unknown, or not affine.
    """
    bundle = pipeline.session.bundle
    family = "" if bundle.manifest is None else bundle.manifest.family
    if not isinstance(pipeline, DiffusionPipeline) or family not in SINGLE_GRAPH_FAMILIES:
        raise InputError(
            f"{_OPTION}: got a checkpoint of the family {family!r}, expected one of "
            f"{', '.join(SINGLE_GRAPH_FAMILIES)}; export it without {_OPTION}"
        )
    if pipeline.default_task is not TextToImage:
        raise InputError(
            f"{_OPTION}: got a checkpoint of {bundle.pipeline_class}, which does {pipeline.default_task.label}, "
            f"expected text to image; export it without {_OPTION}"
        )
    if bundle.with_role(SAFETY_CHECKER):
        raise InputError(
            f"{_OPTION}: got a checkpoint with a safety checker, which the graph would not run; pass "
            f"--no-safety-checker to export it without"
        )
    _check_scheduler(pipeline, call_arguments(pipeline, request, recipe))


def _check_scheduler(pipeline: DiffusionPipeline, arguments: Mapping[str, Any]) -> None:
    family, own = pipeline.family, pipeline.scheduler
    name = arguments.get("scheduler")
    try:
        scheduler = own.copy() if name is None else make_scheduler(name, own.config, flow=not family.scales_latents)
        size, steps = (arguments["height"], arguments["width"]), arguments["num_inference_steps"]
        if family.plans_timesteps:
            common = CommonInputs(num_inference_steps=steps)
            family.set_timesteps(scheduler, common, family.Inputs(prompt="a"), TextToImage)
        else:
            tokens = pipeline.denoiser.image_tokens(pipeline.denoiser.latent_shape(1, *size, pipeline.vae))
            plan_run(scheduler, steps, None, None, None, tokens, family.even_sigmas, family.compute_mu)
        if family.begin_index is not None:
            start_at_index(scheduler, family.begin_index)
        lower(scheduler)
    except ConfigError as error:
        raise ConfigError(f"{_OPTION}: {error}") from error


def call_arguments(pipeline: DiffusionPipeline, request: SingleGraphRequest, recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of the call that becomes the graph, without texts.

    Raises:
        InputError: The recipe leaves the size open, and the checkpoint names none.
    """
    default = recipe.buckets[0] if recipe.buckets else (None, None)
    fixed = [recipe.dims[name].fixed or one for name, one in zip(("height", "width"), default, strict=True)]
    if None in fixed:
        fixed = [one or own for one, own in zip(fixed, pipeline.default_size, strict=True)]
    defaults = pipeline.family.defaults.get(TextToImage.name, {})
    steps = request.steps or defaults.get("num_inference_steps", _STEPS)
    size = {"height": fixed[0], "width": fixed[1], "num_inference_steps": steps, "guidance_scale": 7.5}
    return size if request.scheduler is None else {**size, "scheduler": request.scheduler}
