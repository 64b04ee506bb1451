"""What prompts become: named inputs of the denoiser, once for the prompt and once for its opposite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError

__all__ = ["Condition", "Feeds", "Frame", "stack"]

Feeds = Mapping[str, npt.NDArray[np.float32]]
"""Name of an input of the denoiser to its rows, float32 (B, ...), one row an image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """What a family has to know of an image to condition it.

    Attributes:
        height: Pixels.
        width: Pixels.
        images_per_prompt: Rows for each prompt; rows of one prompt follow each other.
        guided: Whether unconditional rows are needed.
        from_image: Whether the image begins with another one.
    """

    height: int
    width: int
    images_per_prompt: int
    guided: bool
    from_image: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Condition:
    """The denoiser's inputs beside latents and timestep.

    Attributes:
        conditional: For the prompts.
        unconditional: For the negative prompts, of the same names and shapes; None when nothing guides.
        truncated: For each prompt the part that did not fit into a text encoder, "" where all of it did.
    """

    conditional: Feeds
    unconditional: Feeds | None
    truncated: tuple[str, ...]


def stack(parts: Sequence[Feeds]) -> Feeds:
    """The rows of several feeds of the same names below each other.

    Raises:
        InputError: Embeddings that were handed in have another shape than what they stand beside.
    """
    for name, first in parts[0].items():
        for part in parts[1:]:
            if part[name].shape != first.shape:
                raise InputError(
                    f"{name}: got shapes {first.shape} and {part[name].shape} for the prompt and its negative, "
                    f"expected the same; pass embeddings of both"
                )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
