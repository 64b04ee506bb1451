"""Gives a diffusers pipeline the arguments of ours, and tells which example inputs it takes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers.models import controlnets
from PIL.Image import Image

from diffoundry.exporter.reference.networks import control_names, image_projections, network, t2i_adapters, takes
from diffoundry.runtime.pipelines.example_inputs import (
    ADAPTER,
    CONTROL,
    CONTROL_MASK,
    CONTROL_MODE,
    DEPTH_MAP,
    EXAMPLE_INPUTS,
    IMAGE_PROMPT,
    PROMPT,
)
from diffoundry.runtime.pipelines.tasks import shows_example

__all__ = ["example_inputs", "example_scale", "reference_arguments"]


def example_inputs(pipeline: Any) -> tuple[str, ...]:
    """Names of the example inputs of a diffusers pipeline: see `DiffusionPipeline.example_inputs`."""
    if not takes(pipeline, "prompt"):
        return (IMAGE_PROMPT,)
    if not shows_example(type(pipeline).__name__):
        return ()
    estimates = getattr(pipeline, "depth_estimator", None) is not None
    known = [name for name in EXAMPLE_INPUTS if not (estimates and name == DEPTH_MAP)]
    own = [name for name in (*known, CONTROL_MASK) if takes(pipeline, name)]
    nets, adapters = control_names(pipeline), t2i_adapters(pipeline)
    if adapters or (nets and not takes(pipeline, CONTROL)):
        own = []  # its `image` is that of the adapters, or the control image
    if not nets and takes(pipeline, CONTROL):
        own.append(CONTROL)  # joined to the latents
    if any(getattr(network(pipeline, name), "union", False) for name in nets):
        own.append(CONTROL_MODE)
    return (*own, *[CONTROL] * len(nets), *[ADAPTER] * len(adapters), *[PROMPT] * len(image_projections(pipeline)))


def example_scale(pipeline: Any) -> int:
    """Pixels of the result to a pixel of an example image: see `PipelineBase.example_scale`."""
    return int(pipeline.vae_scale_factor) if hasattr(pipeline, "low_res_scheduler") else 1


def reference_arguments(pipeline: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the arguments of our pipelines for a diffusers pipeline.

    Text to image calls the image for ControlNets or T2I-Adapters `image`, which in other tasks is the initial image.
    Several adapters are scaled as here by default, and get images of as many channels as they take. So does a VAE of
    images with transparency.
    """
    names = {CONTROL: CONTROL if takes(pipeline, CONTROL) else "image", ADAPTER: "image"}
    tensors = {key: torch.from_numpy(value) for key, value in arguments.items() if isinstance(value, np.ndarray)}
    adapted = _adapter_arguments(pipeline, arguments[ADAPTER]) if ADAPTER in arguments else {}
    nets = getattr(pipeline, "controlnet", None)
    if isinstance(nets, _LISTED):  # whose pipelines have one number as their default, and take a list
        adapted = {"controlnet_conditioning_scale": [1.0] * len(nets.nets), **adapted}
    sides = _sides_of_image(pipeline, arguments)
    if isinstance(arguments.get("image"), Image) and _is_transparent(pipeline):
        tensors["image"] = arguments["image"].convert("RGBA")
    return {names.get(key, key): value for key, value in {**sides, **arguments, **tensors, **adapted}.items()}


def _is_transparent(pipeline: Any) -> bool:
    config: Mapping[str, Any] = getattr(getattr(pipeline, "vae", None), "config", {})
    return len("RGBA") in (config.get("input_channels"), config.get("in_channels"))


_LISTED = (controlnets.SD3MultiControlNetModel, controlnets.FluxMultiControlNetModel)


def _sides_of_image(pipeline: Any, arguments: Mapping[str, Any]) -> dict[str, int]:
    """Return the size of an image to start from for a class that would resize it to the checkpoint's own size."""
    image = arguments.get("image")
    if not isinstance(image, Image) or not takes(pipeline, "height"):
        return {}
    return {"height": image.height, "width": image.width}


def _adapter_arguments(pipeline: Any, images: Any) -> dict[str, Any]:
    adapters = t2i_adapters(pipeline).values()
    several = images if isinstance(images, list) else [images]
    converted = [
        image.convert("L" if adapter.config.in_channels == 1 else "RGB")
        for image, adapter in zip(several, adapters, strict=True)
    ]
    if len(converted) == 1:
        return {ADAPTER: converted[0]}
    return {ADAPTER: converted, "adapter_conditioning_scale": [1 / len(converted)] * len(converted)}
