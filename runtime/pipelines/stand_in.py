"""An image and a mask for whoever measures a checkpoint that generates from images, and has none at hand."""

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CONTROL", "SEEN", "STAND_INS", "size_arguments"]

STAND_INS = ("image", "mask_image", "strength")
"""Arguments of tasks that are stood in for."""

CONTROL = "control_image"
"""What ControlNets are shown is stood in for too."""

SEEN = "seen image"
"""An image that is looked at and not generated on, so that a size is asked for beside it."""


def size_arguments(names: Collection[str], height: int, width: int) -> dict[str, Any]:
    """The arguments of a pipeline's call that make an image of this size, under diffusers' names.

    Args:
        names: Those of `STAND_INS` that the pipeline takes: "image" is an orange disc on a gradient of blue, of
            "mask_image" the middle is white, and "strength" is 1, so that as many steps are run as are asked for;
            and `CONTROL` once for each ControlNet, which is shown the disc's outline, white on black. Or `SEEN`.
        height: Pixels.
        width: Pixels.
    """
    if SEEN in names:
        return {**size_arguments(["image"], height, width), "height": height, "width": width}
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


def _outlines(down: npt.NDArray[np.float32], across: npt.NDArray[np.float32], count: int) -> dict[str, Any]:
    """The argument for so many ControlNets: one image, or a list of several."""
    if not count:
        return {}
    from PIL.Image import fromarray

    ring = np.abs(np.sqrt(down**2 + across**2) - 0.3) < 0.02
    outline = fromarray(np.where(ring, 255, 0).astype(np.uint8)).convert("RGB")
    return {CONTROL: outline if count == 1 else [outline] * count}
