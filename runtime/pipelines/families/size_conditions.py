"""The numbers that tell a denoiser of the size of its training images: `time_ids` of Stable Diffusion XL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.condition import Frame
from diffoundry.runtime.pipelines.families.base import Prompts

__all__ = ["SizeConditions", "SizeRows", "size_rows"]

FloatArray = npt.NDArray[np.float32]

_SCORES = 6.0, 2.5
_CORNER = (0, 0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SizeConditions(Prompts):
    """Prompts with sizes as (height, width) in pixels; Podell et al. 2023, section 2.2, https://arxiv.org/abs/2307.01952.

    Attributes:
        original_size: Of the image before it was scaled to the size generated; None takes the size generated.
        crops_coords_top_left: (top, left) of the part that was cut out; (0, 0) centres things.
        target_size: As `original_size`, afterwards.
        negative_original_size: For the negative prompt; None takes the other.
        negative_crops_coords_top_left: The same.
        negative_target_size: The same.
        aesthetic_score: How well a refiner's image should please, 0 to 10.
        negative_aesthetic_score: For the negative prompt.
    """

    original_size: tuple[int, int] | None = None
    crops_coords_top_left: tuple[int, int] = _CORNER
    target_size: tuple[int, int] | None = None
    negative_original_size: tuple[int, int] | None = None
    negative_crops_coords_top_left: tuple[int, int] = _CORNER
    negative_target_size: tuple[int, int] | None = None
    aesthetic_score: float = _SCORES[0]
    negative_aesthetic_score: float = _SCORES[1]

    def check_sizes(self) -> None:
        """Refuse what is no pair of whole numbers, and scores that are no numbers.

        Raises:
            InputError: The first of them.
        """
        for name in ("original_size", "crops_coords_top_left", "target_size"):
            for key in (name, f"negative_{name}"):
                value = getattr(self, key)
                if value is not None and not _is_pair(value):
                    raise InputError(f"{key}: got {value!r}, expected two whole numbers of at least 0, vertical first")
        for key in ("aesthetic_score", "negative_aesthetic_score"):
            value = getattr(self, key)
            if not isinstance(value, int | float) or not np.isfinite(value):
                raise InputError(f"{key}: got {value!r}, expected a number such as 6")


def _is_pair(value: object) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and all(isinstance(one, int) and one >= 0 for one in value)


class SizeRows(NamedTuple):
    """`time_ids`, a row an image: float32 (B, 6), of a refiner (B, 5)."""

    conditional: FloatArray
    unconditional: FloatArray


def size_rows(sizes: SizeConditions, frame: Frame, images: int, *, scored: bool) -> SizeRows:
    """The rows for some images.

    diffusers: `_get_add_time_ids` of `StableDiffusionXLPipeline` and of `StableDiffusionXLImg2ImgPipeline`, and what
    each does with the rows.

    Args:
        sizes: Checked.
        frame: The image.
        images: B.
        scored: Whether the denoiser takes the score in place of the target size.

    Raises:
        InputError: Something is given that would not be used.
    """
    own = frame.height, frame.width
    original, target = tuple(sizes.original_size or own), tuple(sizes.target_size or own)
    first = (*original, *sizes.crops_coords_top_left)
    if scored:
        _refuse_unused(sizes, scored=True, corner=True)
        second = (*tuple(sizes.negative_original_size or original), *sizes.negative_crops_coords_top_left)
        return _repeated((*first, sizes.aesthetic_score), (*second, sizes.negative_aesthetic_score), images)
    if frame.from_image:
        _refuse_unused(sizes, scored=False, corner=False)
        negative = tuple(sizes.negative_original_size or original), tuple(sizes.negative_target_size or target)
        # With the corner of the other, as diffusers has it.
        return _repeated((*first, *target), (*negative[0], *sizes.crops_coords_top_left, *negative[1]), images)
    both = sizes.negative_original_size, sizes.negative_target_size
    _refuse_unused(sizes, scored=False, corner=None not in both)
    if any(both) and None in both:
        raise InputError("negative_original_size and negative_target_size: got one of them, expected both")
    if both[0] is None or both[1] is None or not frame.guided:
        return _repeated((*first, *target), (*first, *target), images)
    second = (*both[0], *sizes.negative_crops_coords_top_left, *both[1])
    # In turns down both halves, as diffusers has it: with several images the halves do not tell them apart.
    rows = np.tile(np.asarray([second, (*first, *target)], np.float32), (images, 1))
    return SizeRows(conditional=rows[images:], unconditional=rows[:images])


def _repeated(first: tuple[float, ...], second: tuple[float, ...], images: int) -> SizeRows:
    rows = [np.tile(np.asarray(row, np.float32), (images, 1)) for row in (first, second)]
    return SizeRows(conditional=rows[0], unconditional=rows[1])


def _refuse_unused(sizes: SizeConditions, *, scored: bool, corner: bool) -> None:
    """Refuse what diffusers would pass over in silence.

    Args:
        sizes: Checked.
        scored: Whether scores count, and target sizes do not.
        corner: Whether the negative prompt's corner counts.
    """
    unused = {
        "target_size": scored and sizes.target_size is not None,
        "negative_target_size": scored and sizes.negative_target_size is not None,
        "aesthetic_score": not scored and sizes.aesthetic_score != _SCORES[0],
        "negative_aesthetic_score": not scored and sizes.negative_aesthetic_score != _SCORES[1],
        "negative_crops_coords_top_left": not corner and tuple(sizes.negative_crops_coords_top_left) != _CORNER,
    }
    for name, given in unused.items():
        if given:
            raise InputError(f"{name}: got {getattr(sizes, name)!r}, which is not used here; leave it out")
