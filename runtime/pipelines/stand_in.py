"""A picture and a mask for whoever measures a checkpoint that paints from pictures, and has none at hand."""

from collections.abc import Collection
from typing import Any

import numpy as np

__all__ = ["STAND_INS", "size_arguments"]

STAND_INS = ("image", "mask_image", "strength")
"""Arguments of tasks that are stood in for."""


def size_arguments(names: Collection[str], height: int, width: int) -> dict[str, Any]:
    """The arguments of a pipeline's call that make a picture of this size, under diffusers' names.

    Args:
        names: Those of `STAND_INS` that the pipeline takes: "image" is an orange disc on a gradient of blue, of
            "mask_image" the middle is white, and "strength" is 1, so that as many steps are run as are asked for.
        height: Pixels.
        width: Pixels.
    """
    if "image" not in names:
        return {"height": height, "width": width}
    strength = {"strength": 1.0} if "strength" in names else {}
    from PIL.Image import fromarray

    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    down, across = down / height - 0.5, across / width - 0.5
    ground = np.stack([0.3 + 0.4 * across, 0.5 + 0.4 * down, 0.8 - 0.2 * across], axis=-1)
    disc = np.where((down**2 + across**2 < 0.09)[..., None], np.asarray([0.95, 0.55, 0.15], np.float32), ground)
    image = fromarray(np.round(disc * 255).astype(np.uint8))
    if "mask_image" not in names:
        return {"image": image, **strength}
    middle = (np.abs(down) < 0.25) & (np.abs(across) < 0.25)
    mask = fromarray(np.where(middle, 255, 0).astype(np.uint8))
    return {"image": image, "mask_image": mask, "height": height, "width": width, **strength}
