"""`diffoundry verify`: compares a bundle with the PyTorch checkpoint it was made from."""

import sys
from pathlib import Path
from typing import Any, Self

import click
import diffusers
import transformers
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from diffoundry.exporter.checkpoint import open_checkpoint
from diffoundry.exporter.verify import PicturePair, VerifyReport, VerifyRequest, Watch, report_to_json, verify
from diffoundry.exporter.verify.page import measured_text, report_sections, verdict
from diffoundry.exporter.verify.prompts import PROMPTS
from diffoundry.runtime.cli.console import err, out, print_json, remark
from diffoundry.runtime.cli.options import bundle_argument, engine_options, json_option, take_engine_options
from diffoundry.runtime.cli.report import require_report, write_report

__all__ = ["checks_table", "command"]


@click.command("verify")
@bundle_argument
@click.option("--against", metavar="MODEL", help="A diffusers folder, a hub id, or an alias.  [default: the recipe's]")
@click.option("--prompt", "given", multiple=True, help="Paint this prompt; may be given several times.")
@click.option(
    "--prompts",
    type=click.IntRange(1, len(PROMPTS)),
    default=2,
    show_default=True,
    help="How many of the built-in prompts to paint when no --prompt is given.",
)
@click.option(
    "--seed", "seeds", type=int, multiple=True, default=(0,), help="May be given several times.  [default: 0]"
)
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Steps of the scheduler.")
@click.option("--guidance-scale", type=float, default=7.5, show_default=True, help="1 or less runs without guidance.")
@engine_options
@json_option
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a report with the pictures.")
def command(
    bundle: Path,
    *,
    against: str | None,
    given: tuple[str, ...],
    prompts: int,
    as_json: bool,
    html: Path | None,
    **values: Any,
) -> None:
    """Compare the bundle DIR with PyTorch: every component, the latents after every step, the pictures, the configs.

    Exit code 1 when a gate fails.
    """
    if html is not None:
        require_report()
    for library in (diffusers, transformers):  # they warn of what is left out on purpose, such as image preprocessors
        library.utils.logging.set_verbosity_error()
    engines = take_engine_options(values)
    request = VerifyRequest(prompts=given or PROMPTS[:prompts], **engines, **values)
    checkpoint = open_checkpoint(against) if against is not None else None
    with _Watch() as watch:
        report = verify(bundle, checkpoint, request, watch)
    for note in report.notes:
        remark(f"note: {note}")
    if as_json:
        print_json(report_to_json(report))
    else:
        out.print(checks_table(report))
        out.print(f"{verdict(report)} ({report.seconds:.1f} s)", markup=False, soft_wrap=True)
    if html is not None:
        write_report(html, f"Verification of {bundle.name}", report_sections(report, watch.pairs), text=verdict(report))
        remark(f"report: {html}")
    if not report.passed:
        sys.exit(1)


class _Watch(Watch):
    """Shows what is under way on standard error, and keeps the pictures."""

    def __init__(self) -> None:
        columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        self.pairs: list[PicturePair] = []
        self._progress = Progress(*columns, console=err)
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, text: str, done: int, total: int) -> None:
        """Show the stage, and how far it is when it has several steps."""
        self._progress.update(self._task, description=f"{text} ({done}/{total})" if total > 1 else text)

    def pictures(self, pair: PicturePair) -> None:
        """Keep them for the report."""
        self.pairs.append(pair)


def checks_table(report: VerifyReport) -> Table:
    """Every check with what was measured and its gate, a section a part."""
    table = Table("part", "what", "measure", "measured", "gate", "")
    previous = None
    for check in report.checks:
        if previous not in (None, check.part):
            table.add_section()
        previous = check.part
        result = "ok" if check.passed else "[bold red]FAIL[/bold red]"
        cells = (check.part, check.subject, check.measure, measured_text(check), check.gate)
        table.add_row(*(escape(cell) for cell in cells), result)
    return table
