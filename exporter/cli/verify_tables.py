"""Prints the tables of `diffoundry verify`: checks, variants and matrices."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from diffoundry.exporter.verify import Check, CrossEngineReport, VerifyReport
from diffoundry.exporter.verify.report.cross_engine_page import matrix
from diffoundry.exporter.verify.report.page import measured_text, variant_row, worst_checks

__all__ = ["checks_table", "matrix_table", "report_tables"]


def report_tables(report: VerifyReport) -> list[Table]:
    """Every check of a single set of engines; of several a line each, and the checks that failed."""
    if len(report.variants) == 1 and not report.absent:
        return [checks_table(report.all_checks)]
    tables = [_variants_table(report)]
    groups = {"files, configs, token ids": report.checks} | {
        variant.name: variant.checks for variant in report.variants
    }
    for name, checks in groups.items():
        failed = [check for check in checks if not check.passed]
        if failed:
            tables.append(checks_table(failed, name))
    return tables


def checks_table(checks: Sequence[Check], title: str | None = None) -> Table:
    """Checks with what was measured and its gate, a section a part; of many images the worst."""
    table = Table("part", "what", "measure", "measured", "gate", "", title=title, title_justify="left")
    previous = None
    for check in worst_checks(checks):
        if previous not in (None, check.part):
            table.add_section()
        previous = check.part
        result = "ok" if check.passed else "[bold red]FAIL[/bold red]"
        cells = (check.part, check.subject, check.measure, measured_text(check), check.gate)
        table.add_row(*(escape(cell) for cell in cells), result)
    return table


def _variants_table(report: VerifyReport) -> Table:
    """Every set of engines in numbers, those that cannot run here with the reason."""
    caption = "PSNR in dB, SSIM and latents of the worst image; same: images that show the same thing"
    table = Table("engines", "PSNR", "mean", "SSIM", "same", "latents", "s", "", caption=caption)
    table.columns[0].no_wrap = True
    for variant in report.variants:
        result = "ok" if variant.passed else "[bold red]FAIL[/bold red]"
        table.add_row(*map(escape, variant_row(variant)), f"{variant.seconds:.1f}", result)
    for absence in report.absent:
        table.add_row(escape(absence.name), *["–"] * 6, "not run")
    return table


def matrix_table(report: CrossEngineReport, title: str) -> Table:
    """One of `MATRICES` of the participants, whose columns are numbered to keep it narrow."""
    numbers = [str(index) for index in range(1, len(report.participants) + 1)]
    table = Table("", *numbers, title=title, title_justify="left")
    table.columns[0].no_wrap = True
    for number, row in zip(numbers, matrix(report, title), strict=True):
        table.add_row(f"{number} {escape(row[0])}", *map(escape, row[1:]))
    return table
