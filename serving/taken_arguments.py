"""The arguments that a bundle can use: those of networks that it lacks are left out."""

from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline

__all__ = ["taken_arguments"]

_CONTROL = frozenset(
    (
        "control_image", "control_mask", "controlnet_conditioning_scale", "control_guidance_start",
        "control_guidance_end", "guess_mode", "control_mode",
    )
)  # fmt: skip
_ADAPTERS = frozenset(("adapter_image", "adapter_conditioning_scale", "adapter_conditioning_factor"))
_IMAGE_PROMPTS = frozenset(("ip_adapter_image", "ip_adapter_masks", "ip_adapter_scale"))


def taken_arguments(pipeline: PipelineBase) -> frozenset[str]:
    """Return the names in `argument_names` but for those of kinds of networks that the bundle lacks."""
    names = frozenset(pipeline.argument_names)
    if not isinstance(pipeline, DiffusionPipeline):
        return names
    parts = pipeline.parts
    joined = (
        (parts.controlnets.names, _CONTROL),
        (parts.t2i_adapters.names, _ADAPTERS),
        (parts.image_prompts.names, _IMAGE_PROMPTS),
    )
    lacking = frozenset[str]().union(*(those for networks, those in joined if not networks))
    return names - (lacking - set(pipeline.example_inputs))  # FLUX.1 Control sees a control image without a ControlNet
