"""Statistics of the tensors of a running network, for every tensor and step. The values themselves are not kept."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffoundry.calibration.histogram import BINS, Histogram
from diffoundry.runtime.errors import EngineError

__all__ = ["SAMPLES", "Statistics", "TensorStatistics"]

Array = NDArray[Any]

SAMPLES = 1 << 16
"""Most values of one tensor in one call that enter its histogram. Extremes and channel sums use all of them."""


class TensorStatistics:
    """Statistics of one tensor, step by step.

    Attributes:
        name: Name of the tensor.
        low: Smallest value in each step, float32, (steps,); +inf for a step that never ran.
        high: Largest value in each step.
        histograms: One histogram a step.
        channel_low: Smallest value in each channel over all steps, float32, (channels,).
        channel_high: Largest value in each channel.
        channel_squares: Sum of squares in each channel, float64.
        rows: Number of values seen for each channel.
    """

    def __init__(self, name: str, channels: int) -> None:
        self.name = name
        self.low = np.empty(0, np.float32)
        self.high = np.empty(0, np.float32)
        self.histograms: list[Histogram] = []
        self.channel_low = np.full(channels, np.inf, np.float32)
        self.channel_high = np.full(channels, -np.inf, np.float32)
        self.channel_squares = np.zeros(channels, np.float64)
        self.rows = 0

    def add(self, values: Array, step: int, channel_axis: int) -> None:
        """Add the tensor's values of one call.

        Args:
            values: float32 of any shape.
            step: Index of the call within the image, from 0.
            channel_axis: Axis of the channels.

        Raises:
            EngineError: It holds an infinity or a NaN, so the float network itself is broken.
        """
        self._reach(step)
        others = tuple(axis for axis in range(values.ndim) if axis != channel_axis % values.ndim)
        low, high = values.min(axis=others), values.max(axis=others)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise EngineError(
                f"calibration: got an infinite value or a NaN in tensor {self.name!r} in step {step}, expected finite "
                f"numbers of the fp32 network; look at its images with 'diffoundry verify' first"
            )
        self.channel_low, self.channel_high = np.minimum(self.channel_low, low), np.maximum(self.channel_high, high)
        self.channel_squares += np.square(values).sum(axis=others, dtype=np.float64)
        self.rows += values.size // values.shape[channel_axis]
        self.low[step], self.high[step] = min(self.low[step], low.min()), max(self.high[step], high.max())
        self.histograms[step].add(_sample(values))

    def _reach(self, step: int) -> None:
        missing = step + 1 - len(self.histograms)
        if missing > 0:
            self.low = np.append(self.low, np.full(missing, np.inf, np.float32))
            self.high = np.append(self.high, np.full(missing, -np.inf, np.float32))
            self.histograms += [Histogram() for _ in range(missing)]

    @property
    def extremes(self) -> tuple[float, float]:
        """Smallest and largest value over all steps."""
        return float(self.low.min()), float(self.high.max())

    @property
    def histogram(self) -> Histogram:
        """Sum of the histograms of all steps."""
        total = Histogram()
        for histogram in self.histograms:
            total.merge(histogram)
        return total


class Statistics:
    """Statistics of the watched tensors of one network. Saving and loading loses nothing.

    Attributes:
        axes: Tensor name to the axis of its channels.
        tensors: Tensor name to its statistics, for the tensors seen.
    """

    def __init__(self, axes: Mapping[str, int]) -> None:
        self.axes = dict(axes)
        self.tensors: dict[str, TensorStatistics] = {}

    def add(self, name: str, values: Array, step: int) -> None:
        """Add one tensor of one call; see `TensorStatistics.add`. One without values counts nothing."""
        if not values.size:
            return
        if name not in self.tensors:
            self.tensors[name] = TensorStatistics(name, values.shape[self.axes[name]])
        self.tensors[name].add(values, step, self.axes[name])

    def save(self, path: Path) -> None:
        """Write everything to an .npz file atomically."""
        arrays: dict[str, Array] = {}
        for name, tensor in self.tensors.items():
            arrays |= {
                f"{name}|low": tensor.low,
                f"{name}|high": tensor.high,
                f"{name}|exponents": np.array([histogram.exponent for histogram in tensor.histograms], np.int64),
                f"{name}|counts": np.array([histogram.counts for histogram in tensor.histograms]),
                f"{name}|channels": np.array([tensor.channel_low, tensor.channel_high]),
                f"{name}|squares": tensor.channel_squares,
                f"{name}|rows": np.array(tensor.rows),
            }
        beside = path.with_name(f".{path.name}")
        with beside.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        os.replace(beside, path)

    @classmethod
    def load(cls, path: Path, axes: Mapping[str, int]) -> "Statistics":
        """Read a file of `save`."""
        found = cls(axes)
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                name, _, part = key.rpartition("|")
                if part == "low":
                    found.tensors[name] = _read_tensor(arrays, name)
        return found


def _read_tensor(arrays: Mapping[str, Array], name: str) -> TensorStatistics:
    squares = arrays[f"{name}|squares"]
    tensor = TensorStatistics(name, len(squares))
    tensor.low, tensor.high = arrays[f"{name}|low"], arrays[f"{name}|high"]
    exponents, counts = arrays[f"{name}|exponents"], arrays[f"{name}|counts"].reshape(-1, BINS)
    tensor.histograms = [Histogram(int(e), c.copy()) for e, c in zip(exponents, counts, strict=True)]
    tensor.channel_low, tensor.channel_high = arrays[f"{name}|channels"]
    tensor.channel_squares, tensor.rows = squares, int(arrays[f"{name}|rows"])
    return tensor


def _sample(values: Array) -> Array:
    """Take every n-th value, n odd, at most `SAMPLES`, so that rows of a power of two are sampled at every position."""
    stride = -(-values.size // SAMPLES)
    return values.ravel()[:: stride | 1]
