"""Text and tables of a benchmark's report, for the terminal and for HTML."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffoundry.runtime.bench.engines import EnginesReport
from diffoundry.runtime.bench.report import BenchReport, ImageDistance, Measured
from diffoundry.runtime.bench.spread import Ratio, Spread
from diffoundry.runtime.cli.console import size_text

__all__ = [
    "Grid",
    "candidate_grid",
    "candidate_words",
    "distance_words",
    "duration",
    "engine_grid",
    "figure_grid",
    "load_warning",
    "machine_words",
    "remarks",
    "work_words",
]


_BUSY = 0.05
"""Share of waiting above which other programs were busy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table of text.

    Attributes:
        columns: Heads.
        rows: As many cells each; the first names the row.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def figure_grid(report: BenchReport) -> Grid:
    """Make a table with a column for each candidate and a row for each figure. Empty rows are left out."""
    measured = [candidate.measured for candidate in report.candidates]
    names = list(dict.fromkeys(name for one in measured if one for name in one.components))
    figures: list[tuple[str, Callable[[Measured], str]]] = [
        ("load", lambda m: duration(m.load.total)),
        ("first image, cold", lambda m: duration(m.first_image)),
        ("image, warm", lambda m: _spread(m.image)),
        ("image, outside engines", lambda m: _spread(m.image_outside)),
        ("step", lambda m: _spread(m.step.seconds)),
        ("step, inside engines", lambda m: _spread(m.step.inside)),
        ("step, outside engines", lambda m: _spread(m.step.outside)),
        ("step, share outside", lambda m: f"{m.step.outside_share:.1%}"),
        *((f"{name}, one call", lambda m, name=name: _component(m, name)) for name in names),
        *((f"{name}, memory", lambda m, name=name: _component_memory(m, name)) for name in names),
        ("images a minute", lambda m: f"{m.images_per_minute:.3g}"),
        ("peak memory", lambda m: size_text(m.peak_rss) if m.peak_rss else "–"),
        ("image, times ours", lambda m: _ratio(m.relative.image, m) if m.relative else "–"),
        ("step, times ours", lambda m: _ratio(m.relative.step, m) if m.relative else "–"),
        ("PSNR to the reference", lambda m: distance_words(m.distance)),
    ]
    rows = [[label, *(show(m) if m else "–" for m in measured)] for label, show in figures]
    return Grid(
        columns=["", *(candidate.name for candidate in report.candidates)],
        rows=[row for row in rows if any(cell != "–" for cell in row[1:])],
    )


def engine_grid(report: EnginesReport) -> Grid:
    """Make a table with a row for each engine of a bundle."""
    measured = [engine.measured for engine in report.engines]
    names = list(dict.fromkeys(name for one in measured if one for name in one.components))
    rows = [
        [
            f"{engine.target} {engine.precision}",
            duration(one.load.total),
            duration(one.first_image),
            _spread(one.image),
            size_text(one.peak_rss) if one.peak_rss else "–",
            *(_component_memory(one, name) for name in names),
            distance_words(engine.distance),
        ]
        for engine in report.engines
        if (one := engine.measured) is not None
    ]
    heads = ("load", "first image", "image, warm", "peak memory", *(f"{name}, memory" for name in names))
    return Grid(columns=["engine", *heads, "PSNR to fp32"], rows=rows)


def candidate_grid(report: BenchReport) -> Grid:
    """Make a table that describes each candidate in a row."""
    keys = list(dict.fromkeys(key for candidate in report.candidates for key in candidate.facts))
    rows = [[candidate.name, *(candidate.facts.get(key, "–") for key in keys)] for candidate in report.candidates]
    return Grid(columns=["candidate", *keys], rows=rows)


def candidate_words(report: BenchReport) -> dict[str, str]:
    """Describe each candidate in a line, by its name."""
    described = ((one.name, one.facts) for one in report.candidates)
    return {name: ", ".join(f"{key} {value}" for key, value in facts.items()) for name, facts in described}


def work_words(report: BenchReport) -> dict[str, str]:
    """Settings that all candidates share, as names and values."""
    work = report.work
    guided = "without guidance" if work.guidance_scale <= 1 else f"guidance {work.guidance_scale:g}"
    return {
        "bundle": report.bundle + (f", model {report.model}" if report.model else ""),
        "prompt": repr(work.prompt) + (f", not {work.negative_prompt!r}" if work.negative_prompt else ""),
        "image": f"{work.width} x {work.height} pixels, {work.steps} steps of {work.scheduler}, {guided}",
        "seed": str(work.seed),
        "rounds": f"{work.repeats} images each, in turns, after the first and {work.warmups} to warm up",
    }


def machine_words(report: BenchReport) -> dict[str, str]:
    """The machine and the time of the measurement, as names and values."""
    machine = report.machine
    libraries = {"diffoundry": report.diffoundry, **machine.libraries}
    words = {
        "processor": f"{machine.cpu}, {machine.cores} cores for this process",
        "instructions": ", ".join(machine.features) or "not reported by the system",
        "memory": size_text(machine.memory) if machine.memory else "not reported by the system",
        "system": f"{machine.system}, Python {machine.python}",
        "libraries": ", ".join(f"{name} {version}" for name, version in libraries.items()),
        "date": report.created,
    }
    if machine.load_average is not None:
        words["load before"] = f"{machine.load_average:.2f} processes running on average"
    return words


def load_warning(report: BenchReport) -> str | None:
    """Warn of other programs that were busy during the measurement; None if there were none."""
    if report.waiting is None or report.waiting <= _BUSY:
        return None
    return (
        f"other programs were at work: our threads waited {report.waiting:.0%} of their time for a processor, so "
        f"figures are too high and ratios unsafe; measure again on a quiet machine"
    )


def remarks(report: BenchReport) -> list[str]:
    """Remarks on the measurement: failures, notes, broken images."""
    lines = []
    for candidate in report.candidates:
        if candidate.failure:
            lines.append(f"{candidate.name}: not measured: {candidate.failure}")
        lines += [f"{candidate.name}: {note}" for note in candidate.notes]
        if candidate.measured and candidate.measured.image_fault:
            lines.append(f"{candidate.name}: {candidate.measured.image_fault}")
    return lines


def duration(seconds: float) -> str:
    """Format seconds with three digits and a unit: 12.3 ms, 1.23 s."""
    unit, scale = _unit_of(seconds)
    return f"{_three_digits(seconds / scale)} {unit}"


def _unit_of(seconds: float) -> tuple[str, float]:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * scale:
            return unit, scale
    return "µs", 1e-6


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _spread(spread: Spread) -> str:
    """Format a median with its 10th and 90th percentile in one unit: 12.3 ms (11.9–13.1)."""
    if spread.count == 1:
        return duration(spread.median)
    _, scale = _unit_of(spread.median)
    return f"{duration(spread.median)} ({_three_digits(spread.p10 / scale)}–{_three_digits(spread.p90 / scale)})"


def _component(measured: Measured, name: str) -> str:
    return _spread(measured.components[name].seconds) if name in measured.components else "–"


def _component_memory(measured: Measured, name: str) -> str:
    peak = measured.components[name].peak_memory if name in measured.components else None
    return "–" if peak is None else size_text(peak)


def _ratio(ratio: Ratio, measured: Measured) -> str:
    if measured.image.count == 1:
        return f"{ratio.of_medians:.2f} x"
    return f"{ratio.of_medians:.2f} x ({ratio.p10:.2f}–{ratio.p90:.2f})"


def distance_words(distance: ImageDistance | None) -> str:
    """Describe the distance between an image and the reference's image."""
    if distance is None:
        return "–"
    if distance.psnr is None:
        return "not a number" if distance.max_abs is None else "identical"
    return f"{distance.psnr:.1f} dB"
