"""Measures every engine of a bundle, each in a process of its own, and compares their images with fp32."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.bench.bundle_candidate import BundleCandidate
from diffoundry.runtime.bench.measure import compare
from diffoundry.runtime.bench.report import SCHEMA_VERSION, BenchReport, ImageDistance, Measured, distance_of
from diffoundry.runtime.bench.request import BenchRequest
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.errors import DiffoundryError, EngineError, InputError

__all__ = ["EngineReport", "EnginesReport", "bench_engines"]

FloatArray = npt.NDArray[np.float32]

_REFERENCE = "fp32"

_Found = tuple[BenchReport, FloatArray] | str


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReport:
    """One target and precision of a bundle, and its figures or the reason why there are none.

    Attributes:
        target: Name of the target.
        precision: Name of the precision.
        report: The whole report of its process, or None after a failure.
        distance: Distance of its image from that of the first engine in fp32; None for that engine, and without one.
        failure: Reason why it could not be measured, or None.
    """

    target: str
    precision: str
    report: BenchReport | None
    distance: ImageDistance | None
    failure: str | None

    @property
    def measured(self) -> Measured | None:
        """The figures, or None after a failure."""
        return None if self.report is None else self.report.candidates[0].measured


@dataclass(frozen=True, kw_only=True, slots=True)
class EnginesReport:
    """Every engine of a bundle.

    Attributes:
        schema_version: Version of the form of each report.
        engines: In the order of the bundle.
    """

    schema_version: int
    engines: tuple[EngineReport, ...]


def bench_engines(
    bundle: str | os.PathLike[str],
    request: BenchRequest | None = None,
    *,
    target: str | None = None,
    options: EngineOptions | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> EnginesReport:
    """Measure every target and precision of a bundle, one after the other, each in a process of its own.

    Args:
        bundle: The bundle's folder.
        request: Image to generate, warm-ups and repeats.
        target: Only engines of this target.
        options: Device and threads.
        progress: Called with (engine, engines done, engines in all) when one begins.

    Raises:
        BundleError: The folder is no bundle.
        InputError: It has no manifest, or no engine of the target.
        EngineError: None of the engines can run here; the message has the reason of the first.
    """
    pairs = _pairs(Bundle(bundle), target)
    found: list[_Found] = []
    for index, (name, precision) in enumerate(pairs):
        if progress is not None:
            progress(f"{name} {precision}", index, len(pairs))
        found.append(_in_process(Path(bundle), request or BenchRequest(), name, precision, options))
    if all(isinstance(one, str) for one in found):
        raise EngineError(f"bundle {bundle}: none of its engines could be measured; {' '.join(pairs[0])}: {found[0]}")
    engines = [
        EngineReport(
            target=name,
            precision=precision,
            report=None if isinstance(one, str) else one[0],
            distance=None,
            failure=one if isinstance(one, str) else None,
        )
        for (name, precision), one in zip(pairs, found, strict=True)
    ]
    return EnginesReport(schema_version=SCHEMA_VERSION, engines=tuple(_with_distances(engines, found)))


def _with_distances(engines: list[EngineReport], found: list[_Found]) -> list[EngineReport]:
    images = [None if isinstance(one, str) else one[1] for one in found]
    first = next((i for i, one in enumerate(engines) if one.precision == _REFERENCE and one.report), None)
    reference = None if first is None else images[first]
    return [
        engine if image is None or reference is None or index == first else
        replace(engine, distance=distance_of(image, reference))
        for index, (engine, image) in enumerate(zip(engines, images, strict=True))
    ]  # fmt: skip


def _pairs(bundle: Bundle, target: str | None) -> list[tuple[str, str]]:
    """Return target and precision of each engine, in the order of the bundle.

    Raises:
        InputError: There is none.
    """
    if bundle.manifest is None:
        raise InputError(f"bundle {bundle.root}: got no manifest, so it has one set of engines; leave --all out")
    engines = [engine for component in bundle.manifest.components.values() for engine in component.engines]
    pairs = list(dict.fromkeys((engine.target, engine.precision) for engine in engines))
    wanted = [pair for pair in pairs if target in (None, pair[0])]
    if not wanted:
        known = ", ".join(dict.fromkeys(name for name, _ in pairs))
        raise InputError(f"target: got {target!r}, expected one of {known}, of which {bundle.root} has engines")
    return wanted


def _in_process(
    bundle: Path, request: BenchRequest, target: str, precision: str, options: EngineOptions | None
) -> _Found:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, bundle, request, target, precision, options).result()
        except BrokenProcessPool:
            return "its process ended without a result, most likely because memory ran out"


def _measure(bundle: Path, request: BenchRequest, target: str, precision: str, options: EngineOptions | None) -> _Found:
    """Measure one engine; in its own process."""
    ours = BundleCandidate(bundle, request, target=target, precision=precision, options=options)
    try:
        comparison = compare(ours, (), request)
    except DiffoundryError as error:
        return str(error)
    return comparison.report, comparison.images[ours.name]
