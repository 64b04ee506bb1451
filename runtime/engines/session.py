"""The opened engines of a bundle: chosen, opened when first needed, fed in the form and batch they take."""

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.dims import size_of
from diffoundry.runtime.bundle.specs import AdapterSpec, EngineSpec, TensorSpec
from diffoundry.runtime.engines.batches import run_in_batches
from diffoundry.runtime.engines.call_hook import CALL_HOOK
from diffoundry.runtime.engines.leases import EngineLeases
from diffoundry.runtime.engines.measured_calls import MeasuredCalls
from diffoundry.runtime.engines.memory_limit import MemoryLimit
from diffoundry.runtime.engines.open_file import open_file
from diffoundry.runtime.engines.part_engines import memory_shares
from diffoundry.runtime.engines.partitioned import PartitionedEngine
from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.runtime.engines.protocol import (
    AdaptableEngine,
    AdapterWeights,
    Array,
    Engine,
    EngineOptions,
    run_checked,
)
from diffoundry.runtime.engines.select import EngineSelection, check_request, select_engine
from diffoundry.runtime.errors import EngineError
from diffoundry.runtime.models.roles import CONTROLNET, DENOISER

__all__ = ["Call", "EngineSession"]

logger = logging.getLogger(__name__)

Call = Callable[[str, Mapping[str, Array], Mapping[str, Array], float], None]
"""Observer of engine calls: component name, feeds, outputs, seconds inside the engine."""


class EngineSession:
    """The engines of one bundle, for one choice of target, precision and options. Safe to share between threads.

    Attributes:
        bundle: Bundle of the engines.
        on_call: Called after every engine call, or None. For benchmarks and calibration.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        target: str | None = None,
        precision: str | None = None,
        options: EngineOptions | None = None,
        low_memory: bool = False,
        memory: int | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            bundle: An opened bundle.
            target: Only engines of this target, or None for the first that can run here.
            precision: Only engines of this precision, or None for the first that the device computes natively.
            options: Device, threads and the like; the default is the target's first device.
            low_memory: Keep only one component loaded at a time (except those used in every step). Lowers peak memory;
                reloads components for every image; calls are serialized.
            memory: Most bytes that this process may take, as `low_memory` in other respects. Networks that would not
                fit run in pieces, if their target can. None: no limit.

        Raises:
            InputError: `memory` is less than the process holds already, or the weights of a denoiser that does not run
                in pieces do not fit.
        """
        self.bundle = bundle
        self.on_call: Call | None = None
        self._target = target
        self._precision = precision
        self._options = options or EngineOptions()
        self._engines: dict[str, Engine] = {}
        self._adapters: dict[str, Mapping[str, Array]] = {}
        self._left: set[str] = set()  # engines whose adapters were removed, until their next call
        self._locks = {name: threading.Lock() for name in bundle.components}
        self._limit = None if memory is None else MemoryLimit(memory, bundle.root)
        self._measured = None if self._limit is None else MeasuredCalls(self._limit)
        self._turn = threading.RLock() if low_memory or self._limit else None
        self._leases = EngineLeases()
        self._shut_down = False
        if self._limit is not None:
            stepped = [name for name in bundle.components if bundle.role(name) == DENOISER][:1]
            self._limit.check_weights(stepped, sum(map(self._file_bytes, stepped)))

    @property
    def opened(self) -> tuple[str, ...]:
        """Names of the components whose engines are open."""
        return tuple(self._engines)

    @property
    def low_memory(self) -> bool:
        """True if only one component is kept open at a time."""
        return self._turn is not None

    @property
    def request(self) -> str:
        """The requested target, precision and device, for a person."""
        asked = " ".join(word for word in (self._target, self._precision, self._options.device) if word)
        return asked or "first engine that runs here"

    def check_request(self) -> None:
        """Refuse a target or a precision that no engine of a component has, without loading a vendor's library.

        Raises:
            EngineError: As said, or the libraries of all these engines are not installed.
        """
        if self.bundle.manifest is not None and (self._target or self._precision):
            for name in self.bundle.components:
                check_request(name, self.bundle.engines(name), self._target, self._precision)

    def engine(self, name: str) -> Engine:
        """Return the engine of the component `name`, opened at the first call.

        Raises:
            BundleError: The bundle has no such component, or a file of it was changed.
            EngineError: No engine of it can run here, or the session was shut down.
        """
        opened = self._engines.get(name)
        if opened is not None and name not in self._left:  # as in every step: no lock, no look at the folder
            return opened
        self.bundle.engines(name)  # refuses an unknown component
        with self._locks[name]:
            if self._shut_down:
                raise EngineError(f"bundle {self.bundle.root}: the pipeline was closed; load the bundle again")
            if name not in self._engines:
                self._engines[name] = self._open(name)
            elif name in self._left:
                self._set(name, {})
            self._left.discard(name)
            return self._engines[name]

    def with_role(self, role: str) -> tuple[str, ...]:
        """Return the names of the components that have a role."""
        return self.bundle.with_role(role)

    def open_all(self, names: Collection[str] | None = None) -> None:
        """Open components now, in parallel, instead of one by one when each is first needed.

        Most of the time goes into the SHA-256 of the files, on one core each. With `low_memory` nothing is opened
        ahead.

        Args:
            names: Components to open; None for all.

        Raises:
            BundleError: As `engine`.
            EngineError: As `engine`, for the first component by `names` that fails.
        """
        if self._turn is not None:
            return
        wanted = self.bundle.components if names is None else names
        with ThreadPoolExecutor(max_workers=max(len(wanted), 1)) as pool:
            for opened in [pool.submit(self.engine, name) for name in wanted]:
                opened.result()

    def choice(self, name: str) -> EngineSelection | None:
        """Select the engine that runs a component here, without opening it; None for a folder without a manifest.

        Raises:
            BundleError: The bundle has no such component.
            EngineError: No engine of it can run here.
        """
        specs = self.bundle.engines(name)
        if self.bundle.manifest is None:
            return None
        return select_engine(name, specs, self._target, self._precision, self._options.device)

    def feature_bytes(self, name: str) -> int:
        """Return the bytes that each feature of a component takes in main memory at least; 0 on other devices."""
        try:
            choice = self.choice(name)
        except EngineError:
            return 0
        if choice is None or (choice.device or "cpu").partition(":")[0] != "cpu":
            return 0
        return {"fp32": 4, "fp16": 2, "bf16": 2}.get(choice.spec.precision, 1)

    def output_bytes(self, name: str, sizes: Mapping[str, int]) -> int:
        """Return the bytes of the outputs of a call, as float32, from the manifest; unknown sizes count as 1.

        Args:
            name: The component.
            sizes: Symbol of the shapes to its size.
        """
        choice = self.choice(name)
        shapes = [] if choice is None else [spec.shape for spec in choice.spec.outputs]
        return sum(4 * math.prod(size_of(side, sizes) or 1 for side in shape) for shape in shapes)

    def declared_inputs(self, name: str) -> tuple[TensorSpec, ...]:
        """Return the inputs of the engine that runs a component, from the manifest; none without a manifest."""
        choice = self.choice(name)
        return () if choice is None else choice.spec.inputs

    def inputs(self, name: str) -> tuple[TensorSpec, ...]:
        """Return the inputs of the engine that runs a component; it is opened only when no manifest names them."""
        return self.declared_inputs(name) or self.engine(name).inputs

    def idle_inputs(self, name: str) -> frozenset[str]:
        """Return the inputs that `run` does without, as if they were zero, from the manifest."""
        choice = self.choice(name)
        return frozenset() if choice is None or choice.spec.idle is None else frozenset(choice.spec.idle.inputs)

    def row_limit(self, name: str) -> int | None:
        """Return the rows that one call of a component's engine takes; None for any number. More are run in parts."""
        return self._rows_at_once(self.inputs(name))

    def adapters(self, name: str) -> AdapterSpec:
        """Return the adapters that the engine of a component takes.

        Raises:
            BundleError: The bundle has no such component.
            EngineError: It takes no adapters; the message names its target and precision.
        """
        choice = self.choice(name)
        found = None if choice is None else choice.spec.adapters
        if found is None:
            which = "a folder without a manifest" if choice is None else f"{choice.spec.target} {choice.spec.precision}"
            reason = None if choice is None else choice.spec.metadata.get("adapters")
            takes = [
                f"{spec.target} {spec.precision}" for spec in self.bundle.engines(name) if spec.adapters is not None
            ]
            raise EngineError(
                f"component {name!r}: got {which}, which takes no LoRA or embedding at run time"
                f"{f' ({reason})' if reason else ''}, expected "
                f"{' or '.join(takes) or 'an engine that does, such as onnxruntime or openvino in fp32'}; "
                f"ask for it with --target and --precision, or export with --lora"
            )
        return found

    def set_adapters(self, name: str, adapters: Mapping[str, Array]) -> None:
        """Apply adapters in a component from its next call on; an empty mapping removes them.

        Removing them may reopen the engine, so it waits for the next call: other adapters may come before it.

        Args:
            name: The component.
            adapters: As in `AdapterWeights`, of the layers in `adapters(name)`.

        Raises:
            BundleError: A file of the bundle was changed.
            EngineError: The engine takes no adapters, or failed.
        """
        self.adapters(name)
        with self._locks[name]:
            if not adapters:
                if self._adapters.pop(name, None) is not None and name in self._engines:
                    self._left.add(name)
                return
            if name in self._engines:
                self._set(name, adapters)
            self._left.discard(name)
            self._adapters[name] = adapters

    def _set(self, name: str, adapters: Mapping[str, Array]) -> None:
        cast("AdaptableEngine", self._engines[name]).set_adapters(self._weights(name, adapters))

    def _weights(self, name: str, adapters: Mapping[str, Array]) -> AdapterWeights | None:
        if not adapters:
            return None
        graph = [self.bundle.file(file) for file in self.adapters(name).files][0]  # noqa: RUF015  # all are checked
        return AdapterWeights(graph=graph, arrays=adapters)

    def notes(self) -> tuple[str, ...]:
        """Return why engines were skipped, each sentence once; nothing when the first ones run."""
        choices = [choice for name in self.bundle.components if (choice := self.choice(name)) is not None]
        return tuple(dict.fromkeys(sentence for choice in choices for sentence in choice.skipped))

    def _open(self, name: str) -> Engine:
        choice = self.choice(name)
        spec, path, target, device = None, self.bundle.root / name / "model.onnx", "onnxruntime", self._options.device
        if choice is not None:
            spec, target, device = choice.spec, choice.spec.target, choice.device
            idle = () if spec.idle is None else spec.idle.files
            path = [self.bundle.file(file) for file in (*spec.files, *idle)][0]  # noqa: RUF015  # all are checked, the first is opened
        elif self._target not in (None, "onnxruntime") or self._precision is not None:
            raise EngineError(
                f"bundle {self.bundle.root}: got no manifest, so it holds only ONNX graphs as they were exported; "
                f"leave target and precision out, or make a bundle with 'diffoundry export'"
            )
        keep_both = self._options.keep_both and self._turn is None
        options = replace(self._options, device=device or "cpu", keep_both=keep_both)
        if self._limit is not None and self._measured is not None:
            options = replace(options, memory=self._limit.room, whole=self._measured.is_whole(name))
        weights = self._weights(name, self._adapters.get(name, {}))
        logger.debug("%s: opening %s with %s on %s", name, path, target, options.device)
        if spec is None or not spec.parts:
            return self._open_file(target, Path(path), spec, options, weights)
        root = self.bundle.root
        shares = memory_shares(spec.parts, options.memory)

        def open_part(part: EngineSpec, adapters: AdapterWeights | None) -> Engine:
            own = replace(options, memory=shares.get(part.files[0]))
            return self._open_file(target, root / part.files[0], part, own, adapters)

        arrays = {} if weights is None else weights.arrays
        return PartitionedEngine(spec, name, open_part, arrays, root, releases=self._turn is not None)

    def _open_file(
        self,
        target: str,
        path: Path,
        spec: EngineSpec | None,
        options: EngineOptions,
        adapters: AdapterWeights | None,
    ) -> Engine:
        return open_file(target, path, spec, options, adapters)

    def run(self, name: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run a component on arrays with any number of rows.

        Floats and integers are converted to the engine's own widths. More rows than it takes at once are run in
        several calls. Floating outputs come back as float32.

        Raises:
            InputError: A feed does not fit the component.
            EngineError: The engine failed.
        """
        hook = CALL_HOOK.get()
        if hook is not None:
            return hook(self, name, feeds)
        if self._turn is None:
            return self._run(name, feeds)
        with self._turn:
            stepped = self._in_every_step(name)
            self._close(o for o in self._locks if o != name and not (stepped and self._in_every_step(o)))
            if self._limit is None or self._measured is None:
                return self._run(name, feeds)
            return self._run_within(self._limit, self._measured, name, feeds)

    def _run_within(
        self, limit: MemoryLimit, measured: MeasuredCalls, name: str, feeds: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Run a component within a limit: in pieces, unless a call has shown that it fits whole."""
        shapes = {feed: array.shape for feed, array in feeds.items()}
        if measured.is_outgrown(name, shapes):
            self._close([name])
        if name not in self._engines:
            with limit.opening(name):
                engine = self.engine(name)
            least: int = getattr(engine, "least_memory", 0)
            limit.check_weights([name], least, "the largest piece")
        engine = self._engines[name]
        with measured.measuring(name, engine, shapes):
            outputs = self._run(name, feeds)
        limit.check(name)
        if getattr(engine, "whole_memory", 0) and measured.is_whole(name):
            self._close([name])  # the next call opens it whole
        return outputs

    def _file_bytes(self, name: str) -> int:
        """Return the bytes of the files that a component's engine holds; 0 without a manifest, or in pieces."""
        choice, manifest = self.choice(name), self.bundle.manifest
        if choice is None or manifest is None or (choice.device == "cpu" and find_plugin(choice.spec.target).pieces):
            return 0
        return sum(manifest.files[file].size for file in choice.spec.files)

    def _in_every_step(self, name: str) -> bool:
        return self.bundle.role(name) in (DENOISER, CONTROLNET)

    def _run(self, name: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        engine = self._take(name)
        with self._leases.give_back(engine):
            return run_in_batches(
                engine, name, feeds, self._rows_at_once(engine.inputs), partial(self._call, name, engine)
            )

    def _take(self, name: str) -> Engine:
        """Return the engine of a component; it stays open until its `give_back`."""
        while True:
            engine = self.engine(name)
            with self._locks[name]:
                if self._engines.get(name) is engine:
                    self._leases.take(engine)
                    return engine

    def _call(self, name: str, engine: Engine, feeds: Mapping[str, Array]) -> dict[str, Array]:
        start = time.perf_counter()
        outputs = run_checked(engine, feeds, name)
        if self.on_call is not None:
            self.on_call(name, feeds, outputs, time.perf_counter() - start)
        return outputs

    def _rows_at_once(self, inputs: Sequence[TensorSpec]) -> int | None:
        shape = inputs[0].shape if inputs else ()
        if not shape:
            raise EngineError(f"bundle {self.bundle.root}: an engine has no inputs with rows; export the bundle again")
        first = shape[0]
        if isinstance(first, int):
            return first
        manifest = self.bundle.manifest
        return manifest.recipe.dims["batch"].max if manifest is not None and "batch" in manifest.recipe.dims else None

    def close(self) -> None:
        """Close every engine that was opened, after the calls under way; the next `run` opens them again."""
        self._close(self._locks)

    def shut_down(self) -> None:
        """Close every engine for good; a later `run` raises `EngineError`."""
        self._shut_down = True
        self._close(self._locks)

    def _close(self, names: Iterable[str]) -> None:
        for name in names:
            with self._locks[name]:
                if name in self._engines:
                    self._leases.close(self._engines.pop(name))
                self._left.discard(name)
