"""Request for an export, and readers for the sizes that a user types."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.single_graph.request import SingleGraphRequest
from diffoundry.runtime.bundle.specs import DimSpec, Variant
from diffoundry.runtime.errors import InputError

__all__ = ["ExportRequest", "parse_buckets", "parse_dim"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRequest:
    """Targets, precisions and sizes of an export.

    Attributes:
        variants: Sets of engines in the user's order of preference: the first that can run is used.
        dims: Limits of "batch" (rows of one engine call), "height" and "width" (pixels); the others are free.
        buckets: (height, width) in pixels of the only sizes that engines support; empty to follow `dims`.
        quantization: Budget and prompts of calibration, if a precision needs it.
        overwrite: True to replace an existing bundle.
        single_graph: The loop of one graph of the whole pipeline; None writes no such graph.
        partition: As in the recipe.
        split: As in the recipe.
    """

    variants: tuple[Variant, ...]
    dims: Mapping[str, DimSpec] = field(default_factory=dict)
    buckets: tuple[tuple[int, int], ...] = ()
    quantization: QuantizationRequest = field(default_factory=QuantizationRequest)
    overwrite: bool = False
    single_graph: SingleGraphRequest | None = None
    partition: bool = False
    split: bool = False


def parse_buckets(text: str) -> tuple[tuple[int, int], ...]:
    """Read "512x512,768x512": width by height in pixels, as images are named; the result is (height, width).

    Raises:
        InputError: Anything else, or one size twice.
    """
    buckets: list[tuple[int, int]] = []
    for part in text.split(","):
        width, _, height = part.strip().partition("x")
        if not width.isdecimal() or not height.isdecimal() or not int(width) or not int(height):
            raise InputError(f"--buckets: got {part.strip()!r}, expected WIDTHxHEIGHT in pixels, such as 512x512")
        if (int(height), int(width)) in buckets:
            raise InputError(f"--buckets: got {part.strip()} twice, expected each size once")
        buckets.append((int(height), int(width)))
    return tuple(buckets)


def parse_dim(name: str, text: str) -> DimSpec:
    """Read "512" (fixed) or "256..1024" (a range, both ends included).

    Raises:
        InputError: Anything else.
    """
    low, dots, high = text.partition("..")
    if not low.isdecimal() or (dots and not high.isdecimal()) or int(low) < 1:
        raise InputError(f"--{name}: got {text!r}, expected a number such as 512 or a range such as 256..1024")
    bounds = int(low), int(high) if dots else int(low)
    if bounds[1] < bounds[0]:
        raise InputError(f"--{name}: got the range {text!r}, expected the smaller end first")
    return DimSpec(min=bounds[0], max=bounds[1])
