"""IFSafetyChecker: flags images with unsafe content, and images with a watermark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffoundry.runtime.models.safety_checker import SafetyChecker

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IFSafetyChecker", "IFVerdict"]

_THRESHOLD = 0.5
"""Of both scores, which are no probabilities. diffusers: `p_threshold` and `w_threshold`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IFVerdict:
    """The verdict on some images.

    Attributes:
        nsfw: For each image whether it was flagged for unsafe content.
        watermark: For each image whether it was flagged for a watermark.
    """

    nsfw: list[bool]
    watermark: list[bool]

    @property
    def flags(self) -> list[bool]:
        """For each image whether it was flagged at all."""
        return [one or other for one, other in zip(self.nsfw, self.watermark, strict=True)]


class IFSafetyChecker(SafetyChecker):
    """diffusers: `IFPipeline.run_safety_checker`."""

    def __call__(self, images: "Sequence[Image]") -> IFVerdict:
        """Judge images; arguments and errors as `scores`."""
        nsfw, watermark = self.scores(images, ("nsfw", "watermark"), 1)
        return IFVerdict(nsfw=(nsfw[:, 0] > _THRESHOLD).tolist(), watermark=(watermark[:, 0] > _THRESHOLD).tolist())
