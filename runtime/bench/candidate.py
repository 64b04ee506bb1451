"""Candidates of a benchmark: anything that can load and generate the same image repeatedly."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Candidate", "Generation", "Load"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Seconds until the first image can begin.

    Attributes:
        total: Total.
        open: Reading configs, the tokenizer and everything else not listed under `components`.
        components: Component to the seconds that opening its engine took, files included.
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
        memory: Component to its peak memory in bytes, of the first image; empty where it is not measured.
    """

    image: FloatArray
    seconds: float
    steps: tuple[float, ...]
    inside: tuple[float, ...]
    calls: Mapping[str, tuple[float, ...]]
    memory: Mapping[str, int] = field(default_factory=dict)


class Candidate(Protocol):
    """Generates one image, always the same. Raises only `DiffoundryError`.

    Attributes:
        name: Name in tables.
        reference: True if the images of the others are compared with its images.
    """

    name: str
    reference: bool

    def load(self) -> Load:
        """Prepare to generate; called once, first."""

    def generate(self) -> Generation:
        """Generate the image."""

    def facts(self) -> Mapping[str, str]:
        """Describe it for the report: library, version, precision ... Called after `load`."""

    def peak_rss(self) -> int | None:
        """Peak resident memory of its process in bytes, or None where the system does not report it."""

    def close(self) -> None:
        """Free everything; called once, last, even after a failure."""
