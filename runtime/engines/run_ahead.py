"""Runs the prelude of a partitioned network once for all timesteps of a schedule."""

from collections.abc import Callable, Collection, Mapping

import numpy as np

from diffoundry.runtime.bundle.specs import EnginePart, TensorSpec
from diffoundry.runtime.engines.part_names import TIMES, TIMESTEPS
from diffoundry.runtime.engines.protocol import Array

__all__ = ["run_ahead", "time_input"]

Results = dict[str, Array]

_MOST_BYTES = 256 << 20
"""Bytes of the results of one batch, which the memory of a run keeps."""


def time_input(part: EnginePart) -> str | None:
    """Return the name of the input with the timestep, or None for a part without one."""
    return next((tensor.name for tensor in part.inputs if tensor.name in TIMESTEPS), None)


def run_ahead(
    part: EnginePart,
    feeds: Mapping[str, Array],
    following: Array,
    run: Callable[[Mapping[str, Array]], Results],
    *,
    one_by_one: bool,
) -> dict[bytes, Results]:
    """Run a part for its timestep and for those that follow, as many as `_MOST_BYTES` holds.

    The timestep is computed alone as well, and as the first and the last of the batch. The batch counts only where all
    three have the same bits: a library may choose other kernels for another number of rows.

    Args:
        part: Its timestep has a free size where it takes several.
        feeds: Its inputs, with one timestep, (1,).
        following: The timesteps that follow, (N,).
        run: Runs the part.
        one_by_one: True to compute timesteps alone that no batch can have; False to leave them to a later call.

    Returns:
        Bytes of a timestep -> results.
    """
    name = time_input(part)
    assert name is not None, "the prelude reads the timestep"
    time = feeds[name]
    alone = run(feeds)
    results = {time.tobytes(): alone}
    size = sum(array.nbytes for array in alone.values())
    times = following[: max(_MOST_BYTES // max(size, 1) - 1, 0)]
    if not times.size:
        return results
    spec = next(tensor for tensor in part.inputs if tensor.name == name)
    if spec.shape == (TIMES,):
        batch = _run_batch(part, feeds, np.concatenate([time, times, time]), run, alone)
        if batch is not None and all(_same_bits(alone, one) for one in (batch[0], batch[-1])):
            return {**results, **{one.tobytes(): rows for one, rows in zip(times, batch[1:-1], strict=True)}}
    if one_by_one:
        results |= {one.tobytes(): run({**feeds, name: one.reshape(time.shape)}) for one in times}
    return results


def _run_batch(
    part: EnginePart,
    feeds: Mapping[str, Array],
    times: Array,
    run: Callable[[Mapping[str, Array]], Results],
    alone: Results,
) -> list[Results] | None:
    """Run a part once for several timesteps, and return the results of each; None where they have other rows."""
    batched = [tensor for tensor in part.inputs if tensor.shape[:1] == ("batch",) and tensor.name in feeds]
    rows = len(feeds[batched[0].name]) if batched else 1
    many = {one.name: _repeated(one, feeds[one.name], len(times), part.shape_inputs) for one in batched}
    outputs = run({**feeds, **many, str(time_input(part)): np.repeat(times, rows)})
    if any(len(array) != len(times) * rows for array in outputs.values()):
        return None
    apart = {one: array.reshape(len(times), rows, *array.shape[1:]) for one, array in outputs.items()}
    return [{one: array[index, : len(alone[one])] for one, array in apart.items()} for index in range(len(times))]


def _repeated(tensor: TensorSpec, array: Array, count: int, shapes: Collection[str]) -> Array:
    """Repeat the rows of an input; one of which the shape alone is read gets no more numbers than it must have."""
    if tensor.name not in shapes:
        return np.tile(array, (count, *[1] * (array.ndim - 1)))
    sizes = [1 if isinstance(size, str) else size for size in tensor.shape[1:]]
    return np.zeros((count * len(array), *sizes), array.dtype)


def _same_bits(ours: Results, theirs: Results) -> bool:
    return all(np.array_equal(array, theirs[name]) for name, array in ours.items())
