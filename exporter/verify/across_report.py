"""What `verify_across` hands back: who painted, and how far each is from each other."""

from dataclasses import dataclass

from diffoundry.exporter.verify.report import Absence, Check
from diffoundry.exporter.verify.request import Settings

__all__ = ["ACROSS_SCHEMA_VERSION", "REFERENCE", "AcrossReport", "Painter", "PairDistance"]

ACROSS_SCHEMA_VERSION = 1
"""Version of the JSON form of `AcrossReport`; it grows when a field changes its meaning or goes away.

1: the first.
"""

REFERENCE = "diffusers fp32"
"""The name of the painter that is no engine of the bundle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Painter:
    """Who painted.

    Attributes:
        name: Target and precision, or "diffusers fp32".
        image_psnr: How near its pictures have to be to diffusers', in dB; None for diffusers itself.
    """

    name: str
    image_psnr: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PairDistance:
    """How far the pictures of two painters are from each other, values in 0..1.

    Attributes:
        a: Name of the one.
        b: Name of the other.
        psnr: Of the picture in which they differ most, in dB, peak 1.
        mean_psnr: The mean over all pictures.
        ssim: The smallest; see `ssim`.
        max_abs: The largest difference of any value of any picture.
    """

    a: str
    b: str
    psnr: float
    mean_psnr: float
    ssim: float
    max_abs: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AcrossReport:
    """The whole answer.

    Attributes:
        schema_version: `ACROSS_SCHEMA_VERSION`.
        diffoundry: Version that compared.
        bundle: Path of the bundle.
        checkpoint: Name of the checkpoint that diffusers painted from, or None.
        settings: What was painted.
        notes: Remarks, such as why diffusers did not paint.
        painters: diffusers first, when it painted, then the bundle's engines in its order.
        distances: One for each pair of painters whose pictures are complete.
        checks: Of every painter that its pictures are no noise of NaN and no single colour; of every pair its PSNR.
        absent: Engines of the bundle that cannot run here.
        seconds: How long it took.
        passed: Whether every check passed.
    """

    schema_version: int
    diffoundry: str
    bundle: str
    checkpoint: str | None
    settings: Settings
    notes: tuple[str, ...]
    painters: tuple[Painter, ...]
    distances: tuple[PairDistance, ...]
    checks: tuple[Check, ...]
    absent: tuple[Absence, ...]
    seconds: float
    passed: bool

    def between(self, a: str, b: str) -> PairDistance | None:
        """The distance of two painters, in either order; None when one of them has no pictures."""
        return next((pair for pair in self.distances if {pair.a, pair.b} == {a, b}), None)
