"""The opened engines of a bundle: chosen, opened when first needed, fed in the form and batch they take."""

import importlib.util
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from diffoundry.runtime.bundle import Bundle
from diffoundry.runtime.engine import Array, Engine, EngineOptions, run_checked
from diffoundry.runtime.errors import EngineError, InputError
from diffoundry.runtime.plugins import find_plugin, list_plugins
from diffoundry.runtime.specs import EngineSpec, TensorSpec

__all__ = ["Call", "Components", "choose_engine"]

Call = Callable[[str, Mapping[str, Array], Mapping[str, Array], float], None]
"""Observer of engine calls: component name, feeds, outputs, seconds inside the engine."""


class Components:
    """The engines of one bundle, for one choice of target, precision and options. Safe to share between threads.

    Attributes:
        bundle: Where they come from.
        on_call: Called after every engine call, or None. For benchmarks and calibration.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        target: str | None = None,
        precision: str | None = None,
        options: EngineOptions | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            bundle: An opened bundle.
            target: Only engines of this target, or None for the first that can run here.
            precision: Only engines of this precision, or None for the first in the manifest.
            options: Device and threads; the default is the CPU with the vendor's own choice of threads.
        """
        self.bundle = bundle
        self.on_call: Call | None = None
        self._target = target
        self._precision = precision
        self._options = options or EngineOptions()
        self._engines: dict[str, Engine] = {}
        self._locks = {name: threading.Lock() for name in bundle.components}

    def engine(self, name: str) -> Engine:
        """The engine of the component `name`, opened at the first call.

        Raises:
            BundleError: The bundle has no such component, or a file of it was changed.
            EngineError: No engine of it can run here.
        """
        opened = self._engines.get(name)
        if opened is not None:  # as in every step: no lock, no look at the folder
            return opened
        specs = self.bundle.engines(name)
        with self._locks[name]:
            if name not in self._engines:
                self._engines[name] = self._open(name, specs)
            return self._engines[name]

    def open_all(self) -> None:
        """Open every component now instead of when it is first needed."""
        for name in self.bundle.components:
            self.engine(name)

    def _open(self, name: str, specs: tuple[EngineSpec, ...]) -> Engine:
        spec, path = None, self.bundle.root / name / "model.onnx"
        if self.bundle.manifest is not None:
            spec = choose_engine(name, specs, self._target, self._precision)
            path = [self.bundle.file(file) for file in spec.files][0]  # noqa: RUF015  # all are checked, the first is opened
        elif self._target not in (None, "onnxruntime") or self._precision is not None:
            raise EngineError(
                f"bundle {self.bundle.root}: got no manifest, so it holds only ONNX graphs as they were exported; "
                f"leave target and precision out, or make a bundle with 'diffoundry export'"
            )
        plugin = find_plugin(spec.target if spec else "onnxruntime")
        engine: Engine = plugin.load("engine")(Path(path), spec, self._options)
        return engine

    def run(self, name: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run a component on arrays with any number of rows.

        Floats and integers are given to the engine in its own widths, and more rows than it takes at once are run
        in turns. Floating outputs come back as float32.

        Raises:
            InputError: A feed does not fit the component.
            EngineError: The engine failed.
        """
        engine = self.engine(name)
        specs = {spec.name: spec for spec in engine.inputs}
        fitted = {key: _fit(array, specs[key], name) if key in specs else array for key, array in feeds.items()}
        limit = self._rows_at_once(engine)
        rows = max((len(array) for array in fitted.values() if array.ndim), default=1)
        fixed = isinstance(engine.inputs[0].shape[0], int)
        if limit is None or rows == limit or (rows < limit and not fixed):
            return _widen(self._call(name, engine, fitted))
        batched = {key for key, array in fitted.items() if _is_batched(specs.get(key), array, rows, limit)}
        pieces = []
        for start in range(0, rows, limit):
            piece = {key: array[start : start + limit] if key in batched else array for key, array in fitted.items()}
            if fixed:
                piece |= {key: _fill(piece[key], limit) for key in batched}
            pieces.append(self._call(name, engine, piece))
        return _widen({key: np.concatenate([piece[key] for piece in pieces])[:rows] for key in pieces[0]})

    def _call(self, name: str, engine: Engine, feeds: Mapping[str, Array]) -> dict[str, Array]:
        start = time.perf_counter()
        outputs = run_checked(engine, feeds, name)
        if self.on_call is not None:
            self.on_call(name, feeds, outputs, time.perf_counter() - start)
        return outputs

    def _rows_at_once(self, engine: Engine) -> int | None:
        first = engine.inputs[0].shape[0]
        if isinstance(first, int):
            return first
        manifest = self.bundle.manifest
        return manifest.recipe.dims["batch"].max if manifest is not None and "batch" in manifest.recipe.dims else None

    def close(self) -> None:
        """Close every engine that was opened; the next `run` opens them again."""
        for name, lock in self._locks.items():
            with lock:
                if name in self._engines:
                    self._engines.pop(name).close()


def choose_engine(
    component: str, specs: tuple[EngineSpec, ...], target: str | None, precision: str | None
) -> EngineSpec:
    """The first engine that was asked for and whose vendor's library is installed.

    Raises:
        EngineError: There is none; the message lists what the bundle holds and what to install.
    """
    held = ", ".join(f"{spec.target} {spec.precision}" for spec in specs)
    wanted = [s for s in specs if target in (None, s.target) and precision in (None, s.precision)]
    if not wanted:
        asked = " ".join(word for word in (target, precision) if word)
        raise EngineError(
            f"component {component!r}: got no engine for {asked}, the bundle holds {held}; "
            f"export it again with --target and --precision, or ask for one of those"
        )
    modules = {plugin.name: plugin.module for plugin in list_plugins()}
    for spec in wanted:
        if spec.target in modules and importlib.util.find_spec(modules[spec.target]) is not None:
            return spec
    missing = wanted[0].target
    raise EngineError(
        f"component {component!r}: the bundle holds {held}, but no library for them is installed; "
        f"install one with: pip install 'diffoundry[{missing}]'"
    )


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
    """Whether the first dimension of a feed is the batch: timesteps and the like are handed to every piece whole."""
    if spec is None or not spec.shape or not array.ndim:
        return False
    return len(array) == rows and (isinstance(spec.shape[0], str) or spec.shape[0] == limit)


def _fill(array: Array, rows: int) -> Array:
    """Fill a fixed batch up by repeating its last row; the caller drops what comes of it."""
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])
