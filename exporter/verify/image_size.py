"""Chooses the image size for a verification: the checkpoint's own, or the nearest that the engines support."""

from diffoundry.exporter.verify.request import Settings, VerifyRequest
from diffoundry.runtime.bundle.specs import DimSpec
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.staged import StagedPipeline

__all__ = ["nearest", "settings_for"]


def settings_for(pipeline: PipelineBase, request: VerifyRequest) -> Settings:
    """Combine the request with a size that the pipeline's bundle supports."""
    manifest = pipeline.session.bundle.manifest
    own = pipeline.default_size
    height, width = own
    if manifest is not None and manifest.recipe.buckets:
        height, width = min(manifest.recipe.buckets, key=lambda size: abs(size[0] - own[0]) + abs(size[1] - own[1]))
    elif manifest is not None:
        dims = manifest.recipe.dims
        height, width = (
            nearest(size, dims.get(name, DimSpec())) for name, size in zip(("height", "width"), own, strict=True)
        )
    return Settings(
        prompts=request.prompts if pipeline.text_encoders else ("a drawn image",),
        seeds=request.seeds,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        height=height,
        width=width,
        example_inputs=pipeline.example_inputs,
        example_scale=pipeline.example_scale,
        arguments={
            **pipeline.setting_arguments(request.steps, request.guidance_scale),
            **pipeline.size_arguments(height, width),
        },
        arrays=pipeline.example_arrays(height, width),
        sized=pipeline.takes_size,
        watch=isinstance(pipeline, StagedPipeline) and pipeline.follows_scheduler,
    )


def nearest(size: int, dim: DimSpec) -> int:
    """Return the size itself when `dim` allows it, or a near size that it allows."""
    if dim.refusal(size) is None:
        return size
    bounded = max(dim.min, size if dim.max is None else min(size, dim.max))
    return bounded - bounded % dim.multiple_of
