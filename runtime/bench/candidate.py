"""What is measured: anything that can load and generate the same image again and again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Candidate", "Generation", "Load"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Seconds until the first image can begin.

    Attributes:
        total: All of it.
        open: Reading configs, tokenizer and whatever else is not listed under `components`.
        components: Component to the seconds its engine took to open, sums of its files included.
    """

    total: float
    open: float
    components: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One generated image and where its time went. All times are in seconds.

    Attributes:
        image: float32 (B, height, width, 3) in 0..1.
        seconds: From the call to the pixels.
        steps: Each step of the denoising loop, from the end of the one before.
        inside: For each step, the part spent inside engines (or modules).
        calls: Component to the seconds of each of its calls.
    """

    image: FloatArray
    seconds: float
    steps: tuple[float, ...]
    inside: tuple[float, ...]
    calls: Mapping[str, tuple[float, ...]]


class Candidate(Protocol):
    """Generates one image, always the same. Errors it raises are `DiffoundryError`.

    Attributes:
        name: How it is called in tables.
        reference: Whether the images of the others are compared with its images.
    """

    name: str
    reference: bool

    def load(self) -> Load:
        """Make ready to generate; called once, first."""

    def generate(self) -> Generation:
        """Generate the image."""

    def facts(self) -> Mapping[str, str]:
        """What it is, for the report: library, version, precision ... Called after `load`."""

    def peak_rss(self) -> int | None:
        """Largest resident memory of its process so far in bytes, or None where the system does not tell."""

    def close(self) -> None:
        """Free everything; called once, last, even after a failure."""
