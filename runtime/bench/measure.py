"""Runs a benchmark: load, first image, warm-ups, then rounds in which the candidates take turns."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np
import numpy.typing as npt

import diffoundry
from diffoundry.runtime.bench.bundle_candidate import BundleCandidate
from diffoundry.runtime.bench.candidate import Candidate, Generation, Load
from diffoundry.runtime.bench.machine import machine_facts, thread_times
from diffoundry.runtime.bench.report import (
    SCHEMA_VERSION,
    BenchReport,
    CandidateReport,
    ImageDistance,
    Measured,
    Work,
    distance_of,
    relative_of,
    summarize,
)
from diffoundry.runtime.bench.request import BenchRequest
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.errors import DiffoundryError

__all__ = ["BenchProgress", "Comparison", "bench", "compare"]

FloatArray = npt.NDArray[np.float32]

BenchProgress = Callable[[str, int, int], None]
"""Called with (label of the act that begins, acts done, acts in all)."""

_PAUSE = 0.1
"""Seconds of rest before each turn, because the threads of the last candidate spin for a while before they sleep."""

_PATIENCE = 20.0
"""A candidate that takes this many times as long as ours is measured once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A report, and the images that belong to it.

    Attributes:
        report: The figures.
        images: Candidate's name to its image, float32 (height, width, 3) in 0..1, of those that could generate.
    """

    report: BenchReport
    images: Mapping[str, FloatArray]


class _Turn:
    """One candidate on its way through the benchmark."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.load: Load | None = None
        self.first: Generation | None = None
        self.generations: list[Generation] = []
        self.facts: Mapping[str, str] = {}
        self.peak_rss: int | None = None
        self.ran = self.waited = 0
        self.notes: list[str] = []
        self.failure: str | None = None

    def begin(self) -> None:
        self.load = self.candidate.load()
        self.facts = self.candidate.facts()

    def generate_first(self) -> None:
        self.first = self.candidate.generate()

    def warm_up(self) -> None:
        self.candidate.generate()

    def generate(self, ours: "_Turn") -> None:
        if self._out_of_patience(ours):
            return
        before = thread_times()
        self.generations.append(self.candidate.generate())
        after = thread_times()
        if before and after:
            self.ran += after[0] - before[0]
            self.waited += after[1] - before[1]

    def end(self) -> None:
        self.peak_rss = self.candidate.peak_rss()

    @property
    def waiting(self) -> float | None:
        """Share of the time that threads of this process waited for a processor while it generated."""
        return self.waited / (self.ran + self.waited) if self.ran else None

    def _out_of_patience(self, ours: "_Turn") -> bool:
        """Return whether this is a baseline so slow that one measurement suffices; adds a note the first time."""
        if not self.generations or self.generations[0].seconds <= _PATIENCE * ours.generations[0].seconds:
            return False
        if not self.notes:
            self.notes.append(f"measured once: it takes more than {_PATIENCE:g} times as long as {ours.candidate.name}")
        return True


def bench(
    bundle: str | os.PathLike[str],
    request: BenchRequest | None = None,
    *,
    target: str | None = None,
    precision: str | None = None,
    options: EngineOptions | None = None,
    progress: BenchProgress | None = None,
) -> BenchReport:
    """Measure a bundle on this machine. Needs only the runtime and the bundle's engine.

    Args:
        bundle: The bundle's folder.
        request: Image to generate, warm-ups and repeats.
        target: Target whose engines run, or None for the first that can run here.
        precision: Precision of the engines, or None for the first in the bundle.
        options: Device and threads.
        progress: Called when an act begins.

    Raises:
        BundleError: As `pipelines.load`.
        InputError: The request does not fit the bundle.
        EngineError: An engine cannot be opened, or failed.
    """
    request = request or BenchRequest()
    ours = BundleCandidate(bundle, request, target=target, precision=precision, options=options)
    return compare(ours, (), request, progress=progress).report


def compare(
    ours: BundleCandidate,
    baselines: Sequence[Candidate],
    request: BenchRequest,
    *,
    progress: BenchProgress | None = None,
) -> Comparison:
    """Measure a bundle and baselines at the same work in one run, taking turns so that noise affects all alike.

    A baseline that fails is reported with its reason and does not stop the others. All are closed at the end.

    Raises:
        DiffoundryError: Ours failed; see `bench`.
    """
    machine = machine_facts()
    turns = [_Turn(candidate) for candidate in (ours, *baselines)]
    try:
        _run(turns, request, progress or (lambda _what, _done, _total: None))
        reports = [_report(turn, turns) for turn in turns]
        work = _work(ours, turns[0], request)
    finally:
        for turn in turns:
            turn.candidate.close()
    bundle = ours.pipeline.session.bundle
    report = BenchReport(
        schema_version=SCHEMA_VERSION,
        diffoundry=diffoundry.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        bundle=bundle.root.resolve().name,
        model=bundle.manifest.recipe.model if bundle.manifest else None,
        machine=machine,
        waiting=turns[0].waiting,
        work=work,
        candidates=tuple(reports),
    )
    return Comparison(
        report=report,
        images={turn.candidate.name: turn.generations[-1].image[0] for turn in turns if not turn.failure},
    )


def _run(turns: Sequence[_Turn], request: BenchRequest, progress: BenchProgress) -> None:
    acts = list(_acts(turns, request))
    for index, (turn, what, act) in enumerate(acts):
        progress(f"{turn.candidate.name}: {what}", index, len(acts))
        if turn.failure:
            continue
        if len(turns) > 1:
            time.sleep(_PAUSE)
        try:
            act()
        except DiffoundryError as error:
            if turn is turns[0]:
                raise
            turn.failure = str(error)
    progress("done", len(acts), len(acts))


def _acts(turns: Sequence[_Turn], request: BenchRequest) -> Iterator[tuple[_Turn, str, Callable[[], None]]]:
    """Yield all acts in order: the turn, its label, the function to call."""
    for turn in turns:
        yield turn, "loading", turn.begin
        yield turn, "first image", turn.generate_first
    for index in range(request.warmups):
        for turn in _rotated(turns, index):
            yield turn, f"warm-up {index + 1} of {request.warmups}", turn.warm_up
    for index in range(request.repeats):
        for turn in _rotated(turns, index):
            yield turn, f"image {index + 1} of {request.repeats}", partial(turn.generate, turns[0])
    for turn in turns:
        yield turn, "end", turn.end


def _rotated(turns: Sequence[_Turn], index: int) -> list[_Turn]:
    """Rotate the turns by one each round, so that no candidate always follows the same neighbour."""
    start = index % len(turns)
    return [*turns[start:], *turns[:start]]


def _report(turn: _Turn, turns: Sequence[_Turn]) -> CandidateReport:
    return CandidateReport(
        name=turn.candidate.name,
        reference=turn.candidate.reference,
        facts=turn.facts,
        notes=tuple(turn.notes),
        failure=turn.failure,
        measured=None if turn.failure else _measured(turn, turns),
    )


def _measured(turn: _Turn, turns: Sequence[_Turn]) -> Measured:
    assert turn.load is not None
    assert turn.first is not None
    ours = turns[0]
    return summarize(
        turn.generations,
        load=turn.load,
        first=turn.first,
        peak_rss=turn.peak_rss,
        distance=_distance(turn, turns),
        relative=None if turn is ours else relative_of(turn.generations, ours.generations),
    )


def _distance(turn: _Turn, turns: Sequence[_Turn]) -> ImageDistance | None:
    references = [other for other in turns if other.candidate.reference and not other.failure]
    if not references or turn is references[0]:
        return None
    return distance_of(turn.generations[-1].image, references[0].generations[-1].image)


def _work(ours: BundleCandidate, turn: _Turn, request: BenchRequest) -> Work:
    _, height, width, _ = turn.generations[-1].image.shape
    return Work(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        scheduler=ours.pipeline.scheduler_name,
        seed=request.seed,
        height=height,
        width=width,
        warmups=request.warmups,
        repeats=request.repeats,
    )
