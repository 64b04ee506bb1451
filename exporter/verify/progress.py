"""What a caller of `verify` may look at while it runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ImagePair", "Watch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePair:
    """One image, generated twice; both float32 (height, width, 3) in 0..1.

    Attributes:
        build: Name of the variant that generated `ours`.
        prompt: The prompt.
        seed: The seed.
        ours: By the bundle.
        reference: By diffusers.
    """

    build: str
    prompt: str
    seed: int
    ours: NDArray[np.float32]
    reference: NDArray[np.float32]


class Watch:
    """Looks away; a caller that wants to see overrides what it wants."""

    def stage(self, text: str, done: int, total: int) -> None:
        """Something has come so far: called when a stage begins (done = 0) and after every step of it."""

    def images(self, pair: ImagePair) -> None:
        """Both images of a prompt and seed are generated."""

    def generated(self, name: str, images: Sequence[NDArray[np.float32]]) -> None:
        """Of `verify_across`: a participant is done; its images are float32 (height, width, 3) in 0..1."""
