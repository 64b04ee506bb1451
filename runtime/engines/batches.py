"""Feeds of any number of rows in the form and batch that an engine takes."""

from collections.abc import Callable, Mapping

import numpy as np

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.protocol import Array, Engine
from diffoundry.runtime.errors import InputError

__all__ = ["run_in_batches"]


def run_in_batches(
    engine: Engine,
    component: str,
    feeds: Mapping[str, Array],
    limit: int | None,
    call: Callable[[Mapping[str, Array]], dict[str, Array]],
) -> dict[str, Array]:
    """Run an engine on arrays with any number of rows; see `EngineSession.run`.

    Args:
        engine: Its inputs say dtypes and shapes.
        component: Its name, for messages.
        feeds: One array for each input.
        limit: Rows that it takes at once; None for any number.
        call: Runs the engine once.

    Raises:
        InputError: A feed does not fit.
        EngineError: The engine failed.
    """
    specs = {spec.name: spec for spec in engine.inputs}
    fitted = {key: _fit(array, specs[key], component) if key in specs else array for key, array in feeds.items()}
    rows = max((len(array) for array in fitted.values() if array.ndim), default=1)
    fixed = isinstance(engine.inputs[0].shape[0], int)
    if limit is None or rows == limit or (rows < limit and not fixed):
        return _widen(call(fitted))
    batched = {key for key, array in fitted.items() if _is_batched(specs.get(key), array, rows, limit)}
    pieces = []
    for start in range(0, rows, limit):
        piece = {key: array[start : start + limit] if key in batched else array for key, array in fitted.items()}
        if fixed:
            piece |= {key: _fill(piece[key], limit) for key in batched}
        pieces.append(call(piece))
    return _widen({key: np.concatenate([piece[key] for piece in pieces])[:rows] for key in pieces[0]})


def _fit(array: Array, spec: TensorSpec, component: str) -> Array:
    """Bring a feed to the engine's dtype within its kind; whole numbers may pass as integers, fractions never."""
    if not spec.shape and array.size == 1:
        array = array.reshape(())
    if array.dtype == spec.dtype:
        return array
    wanted = np.dtype(spec.dtype)
    if wanted.kind in "iu" and array.dtype.kind == "f" and not np.all(array == np.trunc(array)):
        raise InputError(
            f"component {component!r}, input {spec.name!r}: got {array.ravel()[0]}, expected a whole number "
            f"because this graph was exported with {spec.dtype}; choose a scheduler with whole timesteps, "
            f"or export with diffoundry, whose graphs take fractions"
        )
    return array.astype(wanted) if wanted.kind in "fiu" and array.dtype.kind in "fiu" else array


def _widen(outputs: dict[str, Array]) -> dict[str, Array]:
    return {
        key: array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
        for key, array in outputs.items()
    }


def _is_batched(spec: TensorSpec | None, array: Array, rows: int, limit: int) -> bool:
    """Return whether the first dimension of a feed is the batch; timesteps and the like go whole into every call."""
    if spec is None or not spec.shape or not array.ndim:
        return False
    return len(array) == rows and (isinstance(spec.shape[0], str) or spec.shape[0] == limit)


def _fill(array: Array, rows: int) -> Array:
    """Fill a fixed batch up by repeating its last row; the caller drops the results of these rows."""
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])
