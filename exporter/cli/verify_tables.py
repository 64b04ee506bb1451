"""Prints the tables of `diffoundry verify` and `compare`: failed checks, all checks, sets of engines, and matrices."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from diffoundry.exporter.verify import Check, CrossEngineReport, VerifyReport
from diffoundry.exporter.verify.report.cross_engine_page import matrix
from diffoundry.exporter.verify.report.page import measured_text, variant_row, worst_checks
from diffoundry.runtime.cli.console import make_table

__all__ = ["checks_table", "matrix_table", "report_tables"]

_MARKS = {True: Text("ok"), False: Text("FAIL", style="bold red")}


def report_tables(report: VerifyReport, *, every: bool = False) -> list[Table]:
    """The failed checks, or every check, then a line for each set of engines.

    Args:
        report: The report.
        every: Show the passed checks too; of many images the worst.
    """
    groups = {"Files, configs, token ids": report.checks} | {
        variant.name: variant.checks for variant in report.variants
    }
    tables = []
    for name, checks in groups.items():
        shown = [check for check in worst_checks(checks) if every or not check.passed]
        if shown:
            tables.append(checks_table(sorted(shown, key=lambda check: check.passed), name))
    return [*tables, _variants_table(report)]


def checks_table(checks: Sequence[Check], title: str | None = None) -> Table:
    """A line for each check: its result, its item and measure, the value and the limit."""
    table = make_table("", "check", "value", "limit")
    table.title, table.title_justify, table.title_style = title, "left", "bold"
    for check in checks:
        table.add_row(_MARKS[check.passed], f"{check.subject}: {check.measure}", measured_text(check), check.gate)
    return table


def _variants_table(report: VerifyReport) -> Table:
    """A line for each set of engines; those that cannot run here have no numbers."""
    numbers = ("PSNR", "mean", "SSIM", "latents")
    table = make_table("", "engines", "PSNR", "mean", "SSIM", "same", "latents", numbers=numbers)
    table.caption = "PSNR in dB; same: images with the same object; latents: largest error / RMS"
    table.caption_justify = "left"
    for variant in report.variants:
        table.add_row(_MARKS[variant.passed], *variant_row(variant))
    for absence in report.absent:
        table.add_row("not run", absence.name, *["–"] * 5)
    return table


def matrix_table(report: CrossEngineReport, title: str) -> Table:
    """One of `MATRICES` of the participants, whose columns are numbered to keep it narrow."""
    numbers = [str(index) for index in range(1, len(report.participants) + 1)]
    table = make_table("", *numbers, numbers=numbers)
    table.title, table.title_justify, table.title_style = title, "left", "bold"
    for number, row in zip(numbers, matrix(report, title), strict=True):
        table.add_row(f"{number} {row[0]}", *row[1:])
    return table
