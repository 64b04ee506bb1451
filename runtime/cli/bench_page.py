"""A benchmark as sections of an HTML report."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.bench.measure import Comparison
from diffoundry.runtime.bench.report import BenchReport, ContenderReport, Measured
from diffoundry.runtime.bench.spread import Spread
from diffoundry.runtime.cli.bench_view import (
    contender_grid,
    distance_words,
    figure_grid,
    machine_words,
    remarks,
    work_words,
)
from diffoundry.runtime.cli.report import Bar, Bars, Facts, Panel, Picture, Pictures, Section, Table, Text

if TYPE_CHECKING:  # what is measured must not carry Pillow in its memory
    from PIL.Image import Image

__all__ = ["bench_sections"]

_MILLI = 1e3


def bench_sections(comparison: Comparison) -> list[Section]:
    """The sections of a benchmark: pictures, remarks, latency plot, figures, work, contenders, machine."""
    report = comparison.report
    figures, contenders, lines = figure_grid(report), contender_grid(report), remarks(report)
    return [
        _pictures(comparison),
        *([Text(title="Remarks", text="\n\n".join(lines))] if lines else []),
        _latency(report),
        Table(
            title="Figures",
            columns=figures.columns,
            rows=figures.rows,
            text="Medians, with the 10th and 90th percentile in brackets. Outside the engines: scheduler, guidance "
            "and copies. Times ours: above 1, diffoundry is faster.",
        ),
        Facts(title="Work", facts=work_words(report)),
        Table(title="Contenders", columns=contenders.columns, rows=contenders.rows),
        Facts(title="Machine", facts=machine_words(report), text="These figures hold for this machine."),
    ]


def _pictures(comparison: Comparison) -> Pictures:
    contenders = [one for one in comparison.report.contenders if one.name in comparison.pictures]
    compared = any(contender.reference for contender in contenders)
    text = f"{comparison.report.work.prompt!r}, painted by each contender."
    if compared:
        text += " Under each its PSNR to the picture of the reference."
    return Pictures(
        title="Pictures",
        pictures=[
            Picture(
                image=_image(comparison.pictures[contender.name]),
                caption=contender.name,
                note=_note(contender) if compared else "",
            )
            for contender in contenders
        ],
        text=text,
    )


def _note(contender: ContenderReport) -> str:
    assert contender.measured is not None, "only who was measured has a picture"
    return "the reference" if contender.measured.distance is None else distance_words(contender.measured.distance)


def _image(pixels: npt.NDArray[np.float32]) -> "Image":
    """Black where the picture holds NaN, so that even a broken one can be shown."""
    from PIL.Image import fromarray

    return fromarray(np.round(np.nan_to_num(pixels) * 255).astype(np.uint8))


def _latency(report: BenchReport) -> Bars:
    measured = {contender.name: contender.measured for contender in report.contenders if contender.measured}
    components = list(dict.fromkeys(name for one in measured.values() for name in one.components))
    panels = [
        _panel("whole picture, warm", {name: one.picture for name, one in measured.items()}),
        _panel("one step", {name: one.step.seconds for name, one in measured.items()}),
        *(_panel(f"{component}, one call", _calls(measured, component)) for component in components),
        _panel("one step, outside the engines", {name: one.step.outside for name, one in measured.items()}),
    ]
    return Bars(
        title="Latency",
        panels=panels,
        unit="ms",
        text="Medians; the whiskers reach from the 10th to the 90th percentile. Shorter is faster. "
        "Each panel has a scale of its own.",
    )


def _calls(measured: Mapping[str, Measured], component: str) -> dict[str, Spread]:
    return {name: one.components[component].seconds for name, one in measured.items() if component in one.components}


def _panel(title: str, spreads: Mapping[str, Spread]) -> Panel:
    return Panel(title=title, bars=[_bar(name, spread) for name, spread in spreads.items()])


def _bar(name: str, spread: Spread) -> Bar:
    return Bar(label=name, value=spread.median * _MILLI, low=spread.p10 * _MILLI, high=spread.p90 * _MILLI)
