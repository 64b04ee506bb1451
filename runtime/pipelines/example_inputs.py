"""Example images and masks, to measure checkpoints that generate from images."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "CONTROL",
    "EXAMPLE_INPUTS",
    "IMAGE_PROMPT",
    "example_input_names",
    "make_example_arrays",
    "make_example_inputs",
]

EXAMPLE_INPUTS = ("image", "mask_image", "strength")
"""Arguments of tasks that have an example."""

CONTROL = "control_image"
"""Argument of ControlNets, which has an example too."""

IMAGE_PROMPT = "image prompt"
"""Name for an image that conditions instead of a text: its size is not that of the result."""


def example_input_names(task: type[Any], controlnets: int, *, texts: bool) -> tuple[str, ...]:
    """Return the names for `make_example_inputs` of a pipeline.

    Args:
        task: Dataclass of the task's arguments.
        controlnets: Number of ControlNets.
        texts: True if the pipeline takes texts.
    """
    if not texts:
        return (IMAGE_PROMPT,)
    own = [name for name in EXAMPLE_INPUTS if name in getattr(task, "__dataclass_fields__", {})]
    return (*own, *[CONTROL] * controlnets)


def make_example_inputs(names: Collection[str], height: int, width: int, scale: int = 1) -> dict[str, Any]:
    """Return arguments of a pipeline's call for an image of this size, under diffusers' names.

    Args:
        names: Those of `EXAMPLE_INPUTS` that the pipeline takes: "image" is an orange disc on a gradient of blue, of
            "mask_image" the middle is white, and "strength" is 1, so that every step is run; and `CONTROL` once for
            each ControlNet, which gets the disc's outline, white on black. Or `IMAGE_PROMPT`.
        height: Pixels of the result.
        width: Pixels of the result.
        scale: Pixels of the result to a pixel of an image.
    """
    if scale != 1:
        return make_example_inputs(names, height // scale, width // scale)
    if IMAGE_PROMPT in names:
        return {**make_example_inputs(["image"], height, width), "height": height, "width": width}
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    down, across = down / height - 0.5, across / width - 0.5
    controls = _outlines(down, across, sum(name == CONTROL for name in names))
    if "image" not in names:
        return {"height": height, "width": width, **controls}
    strength = {"strength": 1.0, **controls} if "strength" in names else controls
    from PIL.Image import fromarray

    ground = np.stack([0.3 + 0.4 * across, 0.5 + 0.4 * down, 0.8 - 0.2 * across], axis=-1)
    disc = np.where((down**2 + across**2 < 0.09)[..., None], np.asarray([0.95, 0.55, 0.15], np.float32), ground)
    image = fromarray(np.round(disc * 255).astype(np.uint8))
    if "mask_image" not in names:
        return {"image": image, **strength}
    middle = (np.abs(down) < 0.25) & (np.abs(across) < 0.25)
    mask = fromarray(np.where(middle, 255, 0).astype(np.uint8))
    return {"image": image, "mask_image": mask, "height": height, "width": width, **strength}


def make_example_arrays(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return float32 arrays of seeded normal numbers, by the names of arguments."""
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _outlines(down: npt.NDArray[np.float32], across: npt.NDArray[np.float32], count: int) -> dict[str, Any]:
    """Return the argument for `count` ControlNets: one image, or a list of several."""
    if not count:
        return {}
    from PIL.Image import fromarray

    ring = np.abs(np.sqrt(down**2 + across**2) - 0.3) < 0.02
    outline = fromarray(np.where(ring, 255, 0).astype(np.uint8)).convert("RGB")
    return {CONTROL: outline if count == 1 else [outline] * count}
