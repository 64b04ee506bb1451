"""Statistics of tensors against NumPy on all values, written and read back bit by bit."""

import numpy as np
import pytest

from diffoundry.calibration.ranges import make_ranges
from diffoundry.calibration.statistics import SAMPLES, Statistics
from diffoundry.runtime.errors import EngineError

STEPS = 3


def calls(seed: int, shape: tuple[int, ...], count: int = 4) -> list[list[np.ndarray]]:
    """`count` runs of `STEPS` calls of one tensor, each step of another size."""
    rng = np.random.default_rng(seed)
    return [
        [(rng.standard_normal(shape) * 10.0 ** (step - 1) + step).astype(np.float32) for step in range(STEPS)]
        for _ in range(count)
    ]


def take_in(statistics: Statistics, runs: list[list[np.ndarray]], name: str = "x") -> Statistics:
    for run in runs:
        for step, values in enumerate(run):
            statistics.add(name, values, step)
    return statistics


@pytest.mark.parametrize(("shape", "axis"), [((2, 5, 6, 7), 1), ((2, 9, 5), -1)])
def test_extremes_channels_and_histograms_are_numpys(shape, axis):
    runs = calls(0, shape)
    tensor = take_in(Statistics({"x": axis}), runs).tensors["x"]
    everything = np.stack([values for run in runs for values in run])
    for step in range(STEPS):
        values = np.stack([run[step] for run in runs])
        assert tensor.low[step] == values.min()
        assert tensor.high[step] == values.max()
        histogram = tensor.histograms[step]
        expected = np.histogram(values.astype(np.float64), bins=histogram.edges)[0]
        np.testing.assert_array_equal(histogram.counts, expected)
    np.testing.assert_array_equal(
        tensor.histogram.counts, np.histogram(everything.astype(np.float64), bins=tensor.histogram.edges)[0]
    )
    assert tensor.extremes == (everything.min(), everything.max())
    by_channel = np.moveaxis(everything, 2 if axis == 1 else -1, 0).reshape(5, -1)
    np.testing.assert_array_equal(tensor.channel_low, by_channel.min(axis=1))
    np.testing.assert_array_equal(tensor.channel_high, by_channel.max(axis=1))
    np.testing.assert_allclose(
        tensor.channel_squares / tensor.rows, np.square(by_channel, dtype=np.float64).mean(axis=1), rtol=1e-6
    )


def test_large_tensors_are_sampled_and_their_extremes_are_not():
    values = np.zeros((1, 4, 300, 300), np.float32)
    values[0, 3, 299, 298] = 7
    tensor = take_in(Statistics({"x": 1}), [[values]]).tensors["x"]
    assert tensor.histogram.counts.sum() <= SAMPLES < values.size
    assert tensor.extremes == (0, 7)


def test_samples_are_spread_over_rows_and_columns_alike():
    """A stride of a power of two would see one column of an image only."""
    columns = np.broadcast_to(np.arange(512, dtype=np.float32), (1, 1, 512, 512))
    tensor = take_in(Statistics({"x": 1}), [[columns]]).tensors["x"]
    centers = tensor.histogram.centers[tensor.histogram.counts > 0]
    assert len(np.unique(np.floor(centers))) > 500


def test_statistics_survive_writing_and_reading_bit_by_bit(tmp_path):
    axes = {"x": 1, "never seen": 1}
    statistics = take_in(Statistics(axes), calls(1, (2, 3, 4, 4)))
    statistics.save(tmp_path / "state.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]
    again = Statistics.load(tmp_path / "state.npz", axes)
    more = calls(2, (2, 3, 4, 4))
    first, second = (make_ranges(take_in(one, more), inputs={"x"}, norms={"x"}) for one in (statistics, again))
    assert first == second
    for part in ("low", "high", "channel_low", "channel_high", "channel_squares"):
        np.testing.assert_array_equal(getattr(statistics.tensors["x"], part), getattr(again.tensors["x"], part))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_float_network_that_is_broken_is_named(broken):
    values = np.ones((1, 2, 3), np.float32)
    values[0, 1, 2] = broken
    with pytest.raises(EngineError, match=r"got an infinite value or a NaN in tensor 'x' in step 4, expected finite"):
        Statistics({"x": -1}).add("x", values, 4)


def test_ranges_keep_all_numbers_that_graphs_need():
    statistics = take_in(Statistics({"x": 1, "y": 1}), calls(3, (2, 3, 4, 4)))
    take_in(statistics, calls(4, (2, 3, 4, 4)), "y")
    tensors = make_ranges(statistics, inputs={"x"}, norms={"y"}).tensors
    assert len(tensors["x"].channel_power) == len(tensors["y"].channel_low) == 3
    assert tensors["x"].channel_low == tensors["y"].channel_power == ()
    for name, tensor in tensors.items():
        seen = statistics.tensors[name]
        assert (tensor.low, tensor.high) == pytest.approx(seen.extremes, rel=1e-6)
        assert tensor.step_high == pytest.approx(list(seen.high), rel=1e-6)
        assert set(tensor.cuts) == {"percentile", "mse", "entropy"}
        assert set(tensor.cuts["mse"]) == {"int8", "uint8", "fp8"}
