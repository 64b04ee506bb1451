"""Report of `compare_engines`: the participants, and the distance of each pair."""

from dataclasses import dataclass

from diffoundry.exporter.verify.report.report import Absence, Check
from diffoundry.exporter.verify.request import Settings

__all__ = ["CROSS_ENGINE_SCHEMA_VERSION", "REFERENCE", "CrossEngineReport", "PairDistance", "Participant"]

CROSS_ENGINE_SCHEMA_VERSION = 1
"""Version of the JSON form of `CrossEngineReport`; raised when a field changes its meaning or is removed.

1: the first.
"""

REFERENCE = "diffusers fp32"
"""Name of diffusers as a participant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Participant:
    """One system that generated images.

    Attributes:
        name: Target and precision, or "diffusers fp32".
        image_psnr: Least PSNR of its images against diffusers', in dB; None for diffusers itself.
    """

    name: str
    image_psnr: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PairDistance:
    """Distance of the images of two participants, values in 0..1.

    Attributes:
        a: Name of the first.
        b: Name of the second.
        psnr: Least PSNR of an image, in dB, peak 1.
        mean_psnr: Mean PSNR over all images.
        ssim: Least SSIM of an image.
        max_abs: Largest difference of any value of any image.
    """

    a: str
    b: str
    psnr: float
    mean_psnr: float
    ssim: float
    max_abs: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossEngineReport:
    """The whole report.

    Attributes:
        schema_version: `CROSS_ENGINE_SCHEMA_VERSION`.
        diffoundry: Version that compared.
        bundle: Path of the bundle.
        checkpoint: Name of the checkpoint that diffusers generated from, or None.
        settings: Prompts and settings of the images.
        notes: Notes, such as the reason why diffusers did not generate.
        participants: diffusers first, when it generated, then the bundle's engines in its order.
        distances: One for each pair of participants whose images are complete.
        checks: For every participant: no NaN and no single colour in its images. For every pair: its PSNR.
        absent: Engines of the bundle that cannot run here.
        seconds: Duration.
        passed: True if every check passed.
    """

    schema_version: int
    diffoundry: str
    bundle: str
    checkpoint: str | None
    settings: Settings
    notes: tuple[str, ...]
    participants: tuple[Participant, ...]
    distances: tuple[PairDistance, ...]
    checks: tuple[Check, ...]
    absent: tuple[Absence, ...]
    seconds: float
    passed: bool

    def between(self, a: str, b: str) -> PairDistance | None:
        """Find the distance of two participants, in either order; None when one of them has no images."""
        return next((pair for pair in self.distances if {pair.a, pair.b} == {a, b}), None)
