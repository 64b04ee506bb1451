"""`diffoundry compare`: compares the engines of a bundle with each other."""

import sys
from pathlib import Path
from typing import Any

import click

from diffoundry.exporter.cli.verify_options import (
    ProgressLine,
    check_report,
    comparison_options,
    open_against,
    take_request,
    tell_notes,
)
from diffoundry.runtime.cli.console import out, print_json, remark
from diffoundry.runtime.cli.help import Command
from diffoundry.runtime.cli.options import bundle_argument, named_as_typed
from diffoundry.runtime.report import write_report

__all__ = ["command"]

_EXAMPLES = (
    "diffoundry compare emoji.bundle",
    "diffoundry compare emoji.bundle --full --html engines.html",
)


@click.command("compare", cls=Command, examples=_EXAMPLES)
@bundle_argument
@comparison_options
@named_as_typed()
def command(bundle: Path, *, against: str | None, html: Path | None, as_json: bool, **values: Any) -> None:
    """Generate the same images with every engine of the bundle DIR, and compare each pair of engines.

    PyTorch takes part if the checkpoint is found. The exit code is 1 when a gate fails.
    """
    check_report(html)
    request = take_request(bundle, values)
    checkpoint = open_against(against, bundle)

    from diffoundry.exporter.cli.verify_tables import checks_table, matrix_table  # imports PyTorch: after every check
    from diffoundry.exporter.reference.pipeline import quiet_libraries
    from diffoundry.exporter.verify import compare_engines, report_to_json
    from diffoundry.exporter.verify.report.cross_engine_page import (
        IN_SHORT,
        cross_engine_sections,
        cross_engine_verdict,
    )

    quiet_libraries()
    with ProgressLine(keep=html is not None) as progress:
        report = compare_engines(bundle, checkpoint, request, progress)
    tell_notes(report.notes, report.absent)
    if as_json:
        print_json(report_to_json(report))
    else:
        failed = [check for check in report.checks if not check.passed]
        if failed:
            out.print(checks_table(failed))
        for title in IN_SHORT:
            out.print(matrix_table(report, title))
        out.print(f"{report.seconds:.1f} s")
        out.print(cross_engine_verdict(report), style=None if report.passed else "bold red", soft_wrap=True)
    if html is not None:
        sections = cross_engine_sections(report, progress.sets)
        text = cross_engine_verdict(report)
        write_report(html, f"The engines of {bundle.name}", sections, text=text, passed=report.passed)
        remark(f"report: {html}")
    if not report.passed:
        sys.exit(1)
