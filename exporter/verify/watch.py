"""What a caller of `verify` may look at while it runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PicturePair", "Watch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PicturePair:
    """One picture, painted twice; both float32 (height, width, 3) in 0..1.

    Attributes:
        build: Which of the bundle's engines painted `ours`.
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

    def pictures(self, pair: PicturePair) -> None:
        """Both pictures of a prompt and seed are painted."""

    def painted(self, name: str, pictures: Sequence[NDArray[np.float32]]) -> None:
        """Of `verify_across`: a painter is done; its pictures are float32 (height, width, 3) in 0..1."""
