"""Converts statistics to ranges, and reads and writes the bundle's file of them."""

import json
import math
from collections.abc import Collection
from pathlib import Path

from diffoundry.calibration.grids import GRIDS
from diffoundry.calibration.observers import OBSERVERS, cut
from diffoundry.calibration.statistics import Statistics, TensorStatistics
from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.bundle.json_codec import RecordError, from_json, to_json
from diffoundry.runtime.bundle.quantization import RANGES_VERSION, ComponentRanges, TensorRanges
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.formats.untrusted_json import load_json

__all__ = ["make_ranges", "ranges_file", "read_ranges", "write_ranges"]

_LARGEST_FILE = 64 << 20
"""Bytes. SDXL's ranges have some 10 MB."""

_DIGITS = 7
_CHANNEL_DIGITS = 4
"""Significant digits in the file. Graphs are made only from the written numbers, so nothing is lost."""


def ranges_file(component: str) -> str:
    """Path of a component's ranges in a bundle."""
    return f"calibration/{component}.json"


def make_ranges(statistics: Statistics, *, inputs: Collection[str], norms: Collection[str]) -> ComponentRanges:
    """Summarize a component's statistics as ranges.

    Args:
        statistics: Statistics over all prompts.
        inputs: Tensors that nodes with weights read: their channels' power is kept.
        norms: Output tensors of norms: their channels' extremes are kept.
    """
    return ComponentRanges(
        tensors={
            name: _tensor_ranges(tensor, power=name in inputs, channels=name in norms)
            for name, tensor in sorted(statistics.tensors.items())
        }
    )


def _tensor_ranges(tensor: TensorStatistics, *, power: bool, channels: bool) -> TensorRanges:
    extremes, histogram = tensor.extremes, tensor.histogram
    cuts = {
        observer: {kind: _rounded(cut(observer, histogram, extremes, kind)) for kind in GRIDS}
        for observer in OBSERVERS
        if observer != "minmax"
    }
    low, high = _rounded(extremes)
    return TensorRanges(
        low=low,
        high=high,
        cuts=cuts,
        step_low=_rounded(tensor.low),
        step_high=_rounded(tensor.high),
        channel_low=_rounded(tensor.channel_low, _CHANNEL_DIGITS) if channels else (),
        channel_high=_rounded(tensor.channel_high, _CHANNEL_DIGITS) if channels else (),
        channel_power=_rounded(tensor.channel_squares / max(tensor.rows, 1), _CHANNEL_DIGITS) if power else (),
    )


def write_ranges(bundle: Path, component: str, ranges: ComponentRanges) -> None:
    """Write a component's file atomically."""
    write_text(bundle / ranges_file(component), json.dumps(to_json(ranges), separators=(",", ":")) + "\n")


def read_ranges(bundle: Path, component: str) -> ComponentRanges:
    """Read the ranges of a component; empty when it was not calibrated.

    Raises:
        BundleError: The file is damaged or of another version.
    """
    path = bundle / ranges_file(component)
    if not path.is_file():
        return ComponentRanges(tensors={})
    if path.stat().st_size > _LARGEST_FILE:
        raise BundleError(
            f"{path}: got more than {_LARGEST_FILE} bytes, expected the ranges of a component; do not trust it"
        )
    try:
        found = from_json(ComponentRanges, load_json(path.read_bytes()))
        for name, ranges in found.tensors.items():
            _check(name, ranges)
    except ValueError as error:
        raise BundleError(f"{path}: {error}; calibrate again") from error
    if found.format_version != RANGES_VERSION:
        raise BundleError(
            f"{path}: got ranges of version {found.format_version}, expected {RANGES_VERSION}; calibrate again"
        )
    return found


def _check(name: str, ranges: TensorRanges) -> None:
    """Refuse limits that are no numbers, and a smallest value above the largest.

    Raises:
        RecordError: As said.
    """
    pairs = [(ranges.low, ranges.high), *(pair for grids in ranges.cuts.values() for pair in grids.values())]
    lists = ranges.step_low, ranges.step_high, ranges.channel_low, ranges.channel_high, ranges.channel_power
    for pair in pairs:
        if len(pair) != 2 or not all(map(math.isfinite, pair)) or pair[0] > pair[1]:
            raise RecordError(f"tensor {name[:60]!r}: got the limits {pair}, expected two numbers in order")
    if not all(math.isfinite(value) for values in lists for value in values):
        raise RecordError(f"tensor {name[:60]!r}: got a limit that is not finite, expected numbers")


def _rounded(values: "Collection[float]", digits: int = _DIGITS) -> tuple[float, ...]:
    return tuple(float(f"{value:.{digits}g}") for value in values)
