"""`diffoundry bench`: measures a bundle, alone or with PyTorch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from diffoundry.runtime.bench import BenchRequest, Candidate, bench_engines, compare
from diffoundry.runtime.bench.bundle_candidate import BundleCandidate
from diffoundry.runtime.bench.measure import Comparison
from diffoundry.runtime.bench.report import BenchReport
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.cli.bench_page import bench_sections
from diffoundry.runtime.cli.bench_view import (
    Grid,
    candidate_words,
    engine_grid,
    figure_grid,
    load_warning,
    machine_words,
    remarks,
    work_words,
)
from diffoundry.runtime.cli.console import make_table, out, print_json, remark, warn
from diffoundry.runtime.cli.help import Command, options_in
from diffoundry.runtime.cli.options import (
    SEED,
    bundle_argument,
    engine_options,
    json_option,
    named_as_typed,
    take_engine_options,
    tell_choice,
)
from diffoundry.runtime.cli.status_line import StatusLine
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.report import check_report_path, require_report, write_report

__all__ = ["command", "print_report"]

_TORCH = "diffoundry.exporter.reference.baseline:torch_candidates"


_image = options_in("Image")

_measurement = options_in("Measurement")

_EXAMPLES = (
    "diffoundry bench emoji.bundle",
    "diffoundry bench emoji.bundle --all",
    "diffoundry bench emoji.bundle --against torch --html bench.html",
    "diffoundry bench sd15.bundle --target openvino --precision bf16 --steps 10 --repeats 3",
)


@click.command("bench", cls=Command, examples=_EXAMPLES)
@bundle_argument
@_measurement(
    "--against",
    multiple=True,
    metavar="WHAT",
    help="Measure the checkpoint in PyTorch, too: torch, or one of torch-fp32, torch-bf16, torch-compile. May be "
    "repeated.",
)
@_measurement(
    "--all",
    "all_engines",
    is_flag=True,
    help="Measure every target and precision of the bundle, each in a process of its own, in one table.",
)
@_measurement("--warmups", type=int, help="Unmeasured images after the first.  [default: 1]")
@_measurement("--repeats", type=int, help="Measured images.  [default: 5]")
@_image("--prompt", help="Prompt.  [default: red apple]")
@_image("--negative", "negative_prompt", also=("--negative-prompt",), help="Negative prompt: what to leave out.")
@_image("--steps", also=("--num-inference-steps",), type=int, help="Steps of the scheduler.  [default: 20]")
@_image("--guidance-scale", type=float, help="1 or less turns guidance off.  [default: 7.5]")
@_image("--height", type=int, help="Pixels.  [default: the checkpoint's]")
@_image("--width", type=int, help="Pixels.  [default: the checkpoint's]")
@_image("--seed", type=SEED, help="Seed of torch's CPU generator.  [default: 0]")
@engine_options
@options_in("Output")("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a report.")
@json_option
@named_as_typed()
def command(
    bundle: Path, *, against: Sequence[str], all_engines: bool, html: Path | None, as_json: bool, **values: Any
) -> None:
    """Measure the bundle DIR on this machine: load, first image, steps, components, memory."""
    if all_engines:
        _refuse_with_all(against=against, html=html, precision=values["precision"])
        _measure_all(bundle, take_engine_options(values), values, as_json=as_json)
        return
    if html is not None:
        require_report()
        check_report_path(html)
    engine = take_engine_options(values)
    tell_choice(EngineSession(Bundle(bundle), **engine))
    request = BenchRequest(**{key: value for key, value in values.items() if value is not None})
    ours = BundleCandidate(bundle, request, **engine)
    comparison = _compare(ours, _rivals(bundle, request, against, engine["options"]), request)
    if html is not None:
        write_report(
            html, f"{comparison.report.bundle}: benchmark", bench_sections(comparison), **_verdict(comparison.report)
        )
        remark(f"report written to {html}")
    if as_json:
        print_json(to_json(comparison.report))
    else:
        print_report(comparison.report)


def _refuse_with_all(**values: Any) -> None:
    for name, value in values.items():
        if value:
            raise InputError(f"{name}: got it with --all, which prints one table of every engine; pass one of the two")


def _measure_all(bundle: Path, engine: dict[str, Any], values: dict[str, Any], *, as_json: bool) -> None:
    request = BenchRequest(**{key: value for key, value in values.items() if value is not None})
    with StatusLine() as line:
        report = bench_engines(
            bundle,
            request,
            target=engine["target"],
            options=engine["options"],
            progress=lambda what, done, total: line.update(f"{what} ({done}/{total})"),
        )
    reports = [one.report for one in report.engines if one.report is not None]
    if as_json:
        print_json(to_json(report))
    else:
        described = {
            f"{one.target} {one.precision}": text
            for one in report.engines
            if one.report is not None
            for text in candidate_words(one.report).values()
        }
        _print_grid(engine_grid(report), reports[0], described)
    for one in report.engines:
        lines = [f"not measured: {one.failure}"] if one.report is None else remarks(one.report)
        for text in lines:
            remark(f"{one.target} {one.precision}: {text}")


def _rivals(bundle: Path, request: BenchRequest, against: Sequence[str], options: EngineOptions) -> list[Candidate]:
    if not against:
        return []
    rivals: list[Candidate] = resolve(_TORCH)(bundle, request, against, threads=options.threads)
    return rivals


def _compare(ours: BundleCandidate, rivals: Sequence[Candidate], request: BenchRequest) -> Comparison:
    with StatusLine() as line:
        return compare(
            ours, rivals, request, progress=lambda what, done, total: line.update(f"{what} ({done}/{total})")
        )


def _verdict(report: BenchReport) -> dict[str, Any]:
    """Arguments of `write_report` for the top of the page: the warning, if there is one."""
    warning = load_warning(report)
    return {} if warning is None else {"text": warning, "passed": False}


def print_report(report: BenchReport) -> None:
    """Print the figures on standard output, remarks on standard error."""
    warning = load_warning(report)
    if warning is not None:
        warn(warning)
    _print_grid(figure_grid(report), report, candidate_words(report))
    for line in remarks(report):
        remark(line)


def _print_grid(grid: Grid, report: BenchReport, candidates: Mapping[str, str]) -> None:
    """Print the work, the machine, a line for each candidate, and a table."""
    table = make_table(*grid.columns, numbers=grid.columns[1:])
    for row in grid.rows:
        table.add_row(*row)
    lines = {**work_words(report), **machine_words(report), **candidates}
    width = max(map(len, lines))
    for name, value in lines.items():
        out.print(f"{name:<{width}} {value}", soft_wrap=True)
    out.print(table)
