"""The interface of engines, and the check of their feeds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy.typing as npt

from diffoundry.runtime.bundle.specs import EngineSpec, TensorSpec
from diffoundry.runtime.errors import EngineError, InputError
from diffoundry.runtime.native.measured import MODES

__all__ = [
    "AdaptableEngine",
    "AdapterWeights",
    "Array",
    "Closeable",
    "Engine",
    "EngineOptions",
    "IdleEngine",
    "LimitedEngine",
    "OpenEngine",
    "closed_error",
    "merge_options",
    "run_checked",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """Device, threads and caches of an engine.

    Attributes:
        device: A device as the target names it ("cpu", "cuda", "cuda:1", "gpu", "npu", "auto"), or None for the first
            that the target lists. Engines always get a device.
        threads: Threads for one `run`, or None for the vendor's own choice.
        hint: "latency" or "throughput" for vendors that distinguish them, or None for the vendor's own choice.
        cache_dir: Folder in which compiled engines are kept between runs, or None to keep none.
        native: Mode for our own compiled kernels, where they are installed: "measured" uses each where it is faster on
            this machine, by a short measurement that is kept; "always" wherever it fits; "fixed" by a rule, without
            measuring; "never", or False. True is the mode of the environment variable DIFFOUNDRY_NATIVE, or "measured".
        keep_both: True if an engine with adapters keeps both of its forms open. Loading and unloading adapters is then
            instant, and the weights are in memory twice. Otherwise only the form in use is open.
        memory: Bytes that the engine may take, or None for any number. One that would take more runs in pieces, if its
            target can; sessions set it from their own limit.
        whole: True if an engine with `memory` is known to fit as a whole.
    """

    device: str | None = None
    threads: int | None = None
    hint: str | None = None
    cache_dir: Path | None = None
    native: bool | str = True
    keep_both: bool = True
    memory: int | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        """Refuse unknown words.

        Raises:
            InputError: Another hint, or another mode for native code.
        """
        if not isinstance(self.native, bool) and self.native not in MODES:
            raise InputError(f"native: got {self.native!r}, expected one of {', '.join(MODES)}, True or False")
        if self.hint not in (None, "latency", "throughput"):
            raise InputError(f"hint: got {self.hint!r}, expected 'latency', 'throughput' or none")


def merge_options(options: EngineOptions | None, device: object, threads: int | None) -> EngineOptions:
    """Return options with the device and the threads of a caller.

    Args:
        options: Others, or None for the defaults.
        device: A name, a `torch.device`, or None.
        threads: A number of at least 1, or None.

    Raises:
        InputError: Something else, or an option that `options` has too.
    """
    if type(device).__module__ == "torch":
        device = str(device)
    if not isinstance(device, str | None) or device == "":
        raise InputError(f"device: got {device!r}, expected a name such as 'cpu' or 'cuda'")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads: got {threads!r}, expected a whole number of at least 1")
    merged = options or EngineOptions()
    for name, value in (("device", device), ("threads", threads)):
        if value is not None and getattr(merged, name) not in (None, value):
            raise InputError(f"{name}: got {value!r}, but options has {getattr(merged, name)!r}; pass one of them")
    return replace(merged, device=device or merged.device, threads=threads or merged.threads)


class Engine(Protocol):
    """Runs one lowered component. A context manager; `run` may be called from several threads at once."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: One array for each of `inputs`, of its dtype and shape; callers go through `run_checked`.

        Returns:
            One array for each of `outputs`; they belong to the caller.
        """

    def close(self) -> None:
        """Free the vendor's session. A second call does nothing; `run` raises `EngineError` afterwards."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closeable:
    """Base of engines: makes a class with `close` a context manager."""

    def close(self) -> None:
        """Free all resources."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterWeights:
    """Weights of adapters, which an engine applies besides its own.

    Attributes:
        graph: First of the files in the manifest entry's `adapters`.
        arrays: float32: "<layer>.lora_A", (in, rank) or (rank, in, h, w) of a convolution; "<layer>.lora_B",
            (rank, out) or (out, rank, 1, 1), scales included; "<table>.rows", (count, width). Other layers stay as they
            are. The arrays are kept, not copied.
    """

    graph: Path
    arrays: Mapping[str, Array]


class AdaptableEngine(Engine, Protocol):
    """An engine whose manifest entry has `adapters`. Its `OpenEngine` also takes the keyword `adapters`."""

    def set_adapters(self, adapters: AdapterWeights | None) -> None:
        """Apply these adapters in every `run` from now on; runs under way may still end without them.

        Args:
            adapters: The adapters, or None for the results of an engine without any, bit for bit.

        Raises:
            EngineError: The library refuses.
        """


class IdleEngine(Engine, Protocol):
    """An engine whose manifest entry has `idle`.

    Attributes:
        idle_inputs: Names of the inputs that `run` does without, as if they were zero.
    """

    idle_inputs: frozenset[str]


class LimitedEngine(Engine, Protocol):
    """An engine that may run in pieces.

    Attributes:
        least_memory: Bytes that its largest piece takes; 0 where it is open as a whole.
        whole_memory: Bytes that its weights would take if it were open as a whole; 0 where it is.
    """

    least_memory: int
    whole_memory: int


class OpenEngine(Protocol):
    """The callable behind `TargetPlugin.engine`."""

    def __call__(self, path: Path, spec: EngineSpec | None, options: EngineOptions) -> Engine:
        """Open an engine.

        Args:
            path: The engine's first file; the bundle has checked it.
            spec: Its manifest entry, or None for a folder without a manifest.
            options: Device, threads and caches.

        Raises:
            EngineError: The library, the device or the file does not fit; the message names the remedy.
        """


def closed_error(path: Path) -> EngineError:
    """Return the error of an engine that is used after `close`."""
    return EngineError(f"engine {path}: got a call after it was closed, expected it open; open the engine again")


def run_checked(engine: Engine, feeds: Mapping[str, Array], component: str) -> dict[str, Array]:
    """Check `feeds` against the engine's inputs, then run it.

    Every symbolic dimension must have one value throughout the feeds. `idle_inputs` of the engine may be left out.

    Raises:
        InputError: A name, dtype or shape does not fit; the message names component and tensor.
    """
    expected = {spec.name for spec in engine.inputs}
    idle: frozenset[str] = getattr(engine, "idle_inputs", frozenset())
    if feeds.keys() != expected and not expected - idle <= feeds.keys() <= expected:
        raise InputError(
            f"component {component!r}: got the inputs {sorted(feeds)}, expected {sorted(expected)}; "
            f"missing {sorted(expected - idle - feeds.keys())}, unknown {sorted(feeds.keys() - expected)}"
        )
    sizes: dict[str, int] = {}
    for spec in engine.inputs:
        array = feeds.get(spec.name)
        if array is None:
            continue
        if array.dtype.name != spec.dtype:
            raise InputError(
                f"component {component!r}, input {spec.name!r}: got dtype {array.dtype.name}, expected {spec.dtype}"
            )
        if not _shape_fits(array.shape, spec.shape, sizes):
            known = {name: size for name, size in sizes.items() if name in spec.shape}
            raise InputError(
                f"component {component!r}, input {spec.name!r}: got shape {array.shape}, expected {spec.shape}"
                + (f" with {known}" if known else "")
            )
    return engine.run(feeds)


def _shape_fits(shape: tuple[int, ...], expected: tuple[int | str, ...], sizes: dict[str, int]) -> bool:
    """Compare a shape with a spec; the first value of a symbolic size is stored in `sizes`."""
    if len(shape) != len(expected):
        return False
    return all(
        size == (sizes.setdefault(dim, size) if isinstance(dim, str) else dim)
        for size, dim in zip(shape, expected, strict=True)
    )
