"""`diffoundry verify`: compares a bundle with the checkpoint that it was exported from."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
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
from diffoundry.exporter.tune.approximation import Approximation, parse_approximation
from diffoundry.exporter.verify.request import VerifyRequest
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.console import out, print_json, remark
from diffoundry.runtime.cli.help import Command, options_in
from diffoundry.runtime.cli.options import bundle_argument, named_as_typed
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.report import write_report

__all__ = ["command"]

_EXAMPLES = (
    "diffoundry verify emoji.bundle",
    "diffoundry verify emoji.bundle --full --html report.html",
    "diffoundry verify emoji.bundle --approximation cache=taylor:1 --approximation steps=12",
    'diffoundry verify emoji.bundle --precision fp32 --prompt "red apple" --seed 0 --seed 1',
)


@click.command("verify", cls=Command, examples=_EXAMPLES)
@bundle_argument
@comparison_options
@options_in("Images")(
    "--approximation",
    "approximations",
    multiple=True,
    metavar="NAME=VALUE,...",
    help="Compare this with the exact loop of the same engines instead of PyTorch, such as "
    "guidance-interval=0.2:0.8,cache=taylor:1. May be repeated.",
)
@options_in("Output")("--all-checks", is_flag=True, help="Print every check, not only the failed ones.")
@named_as_typed()
def command(
    bundle: Path,
    *,
    against: str | None,
    html: Path | None,
    all_checks: bool,
    as_json: bool,
    approximations: tuple[str, ...],
    **values: Any,
) -> None:
    """Compare the bundle DIR with PyTorch: every component, the latents after every step, the images, the configs.

    Every target and precision that can run here is compared. The exit code is 1 when a gate fails.
    """
    check_report(html)
    chosen = [parse_approximation(text) for text in approximations]
    request = take_request(bundle, values)
    if chosen:
        _refuse_with_approximations(against=against, html=html, all_checks=all_checks)
        _tell_approximations(bundle, request, chosen, as_json=as_json)
        return
    checkpoint = open_against(against, bundle)

    from diffoundry.exporter.cli.verify_tables import report_tables  # imports PyTorch: after every check of words
    from diffoundry.exporter.reference.pipeline import quiet_libraries
    from diffoundry.exporter.verify import report_to_json, verify
    from diffoundry.exporter.verify.report.page import report_sections, verdict

    quiet_libraries()
    with ProgressLine(keep=html is not None) as progress:
        report = verify(bundle, checkpoint, request, progress)
    tell_notes(report.notes, report.absent)
    if as_json:
        print_json(report_to_json(report))
    else:
        for table in report_tables(report, every=all_checks):
            out.print(table)
        out.print(f"{report.seconds:.1f} s")
        out.print(verdict(report), style=None if report.passed else "bold red", soft_wrap=True)
    if html is not None:
        sections = report_sections(report, progress.pairs)
        write_report(html, f"Verification of {bundle.name}", sections, text=verdict(report), passed=report.passed)
        remark(f"report: {html}")
    if not report.passed:
        sys.exit(1)


def _refuse_with_approximations(**given: Any) -> None:
    """Refuse options of the comparison with PyTorch, which --approximation replaces."""
    for name, value in given.items():
        if value:
            raise InputError(
                f"--{name.replace('_', '-')}: got one with --approximation, which compares the engines with "
                f"themselves; leave it out"
            )


def _tell_approximations(
    bundle: Path, request: VerifyRequest, chosen: Sequence[Approximation], *, as_json: bool
) -> None:
    from diffoundry.exporter.cli.tune_tables import approximation_table
    from diffoundry.exporter.tune.session import measure_approximations

    with ProgressLine(keep=False) as progress:
        measured = measure_approximations(Bundle(bundle), request, chosen, progress.update)
    if as_json:
        print_json([asdict(one) for one in measured])
        return
    for one in measured:
        images = len(one.settings.prompts) * len(one.settings.seeds)
        title = f"{one.name}, {images} images, {one.settings.steps} steps"
        out.print(approximation_table(title, one.reports))
