"""`diffoundry verify`: compares a bundle with the checkpoint it was made from, or its engines with each other."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import click
import diffusers
import numpy as np
import transformers
from numpy.typing import NDArray
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffoundry.exporter.checkpoints.single_file import PREDICTION_TYPE
from diffoundry.exporter.cli.verify_tables import checks_table, matrix_table, report_tables
from diffoundry.exporter.verify import (
    Absence,
    ImagePair,
    VerifyProgress,
    VerifyRequest,
    compare_engines,
    report_to_json,
    verify,
)
from diffoundry.exporter.verify.prompts import PROMPTS
from diffoundry.exporter.verify.report.cross_engine_page import IN_SHORT, cross_engine_sections, cross_engine_verdict
from diffoundry.exporter.verify.report.page import report_sections, verdict
from diffoundry.exporter.verify.request import FULL_SEEDS
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.console import err, out, print_json, remark
from diffoundry.runtime.cli.options import bundle_argument, engine_options, json_option, take_engine_options
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.engines.protocol import OpenEngine
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.report import require_report, write_report

__all__ = ["command"]

_QUICK = 2
"""Built-in prompts that are generated when nothing is said."""


@click.command("verify")
@bundle_argument
@click.option("--against", metavar="MODEL", help="A folder, a file, a hub id, or an alias.  [default: the recipe's]")
@click.option("--across", is_flag=True, help="Compare the bundle's engines with each other instead.")
@click.option(
    "--full", is_flag=True, help=f"Generate all {len(PROMPTS)} built-in prompts from {len(FULL_SEEDS)} seeds."
)
@click.option("--prompt", "given", multiple=True, help="Generate this prompt; may be given several times.")
@click.option(
    "--prompts",
    type=click.IntRange(1, len(PROMPTS)),
    help=f"How many of the built-in prompts to generate when no --prompt is given.  [default: {_QUICK}]",
)
@click.option("--seed", "seeds", type=int, multiple=True, help="May be given several times.  [default: 0]")
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Steps of the scheduler.")
@click.option("--guidance-scale", type=float, default=7.5, show_default=True, help="1 or less runs without guidance.")
@engine_options
@click.option(
    "--engine",
    "engines",
    multiple=True,
    metavar="TARGET=MODULE:FUNCTION",
    help="Open the engines of TARGET with this function instead of its own, such as an interpreter of its files.",
)
@json_option
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a report with the images.")
def command(
    bundle: Path, *, across: bool, against: str | None, html: Path | None, as_json: bool, **values: Any
) -> None:
    """Compare the bundle DIR with PyTorch: every component, the latents after every step, the images, the configs.

    Every target and precision that can run here is compared. Exit code 1 when a gate fails.
    """
    if html is not None:
        require_report()
    for library in (diffusers, transformers):  # they warn of what is left out on purpose, such as image preprocessors
        library.utils.logging.set_verbosity_error()
    request = _request(values)
    checkpoint = _checkpoint(against, bundle) if against is not None else None
    work = _across if across else _against
    if not work(bundle, checkpoint, request, html, as_json=as_json):
        sys.exit(1)


def _against(
    bundle: Path, checkpoint: Checkpoint | None, request: VerifyRequest, html: Path | None, *, as_json: bool
) -> bool:
    """Compare with PyTorch, show the answer, and say whether it passed."""
    with _Progress(keep=html is not None) as progress:
        report = verify(bundle, checkpoint, request, progress)
    _remarks(report.notes, report.absent)
    if as_json:
        print_json(report_to_json(report))
    else:
        for table in report_tables(report):
            out.print(table)
        out.print(f"{verdict(report)} ({report.seconds:.1f} s)", markup=False, soft_wrap=True)
    if html is not None:
        write_report(
            html, f"Verification of {bundle.name}", report_sections(report, progress.pairs), text=verdict(report)
        )
        remark(f"report: {html}")
    return report.passed


def _across(
    bundle: Path, checkpoint: Checkpoint | None, request: VerifyRequest, html: Path | None, *, as_json: bool
) -> bool:
    """Compare the engines with each other, show the answer, and say whether it passed."""
    with _Progress(keep=html is not None) as progress:
        report = compare_engines(bundle, checkpoint, request, progress)
    _remarks(report.notes, report.absent)
    if as_json:
        print_json(report_to_json(report))
    else:
        for title in IN_SHORT:
            out.print(matrix_table(report, title))
        failed = [check for check in report.checks if not check.passed]
        if failed:
            out.print(checks_table(failed))
        out.print(f"{cross_engine_verdict(report)} ({report.seconds:.1f} s)", markup=False, soft_wrap=True)
    if html is not None:
        sections = cross_engine_sections(report, progress.sets)
        write_report(html, f"The engines of {bundle.name}", sections, text=cross_engine_verdict(report))
        remark(f"report: {html}")
    return report.passed


def _checkpoint(against: str, bundle: Path) -> Checkpoint:
    """The checkpoint that the user names, without what the bundle leaves out of its own, and with another VAE."""
    manifest = Bundle(bundle).manifest
    if manifest is None:
        return open_checkpoint(against)
    recipe = manifest.recipe
    said = recipe.source.get(PREDICTION_TYPE) if Path(against).is_file() else None
    return open_checkpoint(against, prediction_type=said, without=recipe.without, vae=recipe.vae)


def _request(values: dict[str, Any]) -> VerifyRequest:
    """The command's options as a request.

    Raises:
        InputError: --full with an option that it sets, or an --engine that cannot be found.
    """
    full, given, prompts, seeds = (values.pop(name) for name in ("full", "given", "prompts", "seeds"))
    if full and (given or prompts or seeds):
        raise InputError(
            "--full: got it with --prompt, --prompts or --seed, expected it alone; it stands for all of them"
        )
    openers = dict(_opener(text) for text in values.pop("engines"))
    return VerifyRequest(
        prompts=PROMPTS if full else given or PROMPTS[: prompts or _QUICK],
        seeds=FULL_SEEDS if full else seeds or (0,),
        openers=openers,
        **take_engine_options(values),
        **values,
    )


def _opener(text: str) -> tuple[str, OpenEngine]:
    """Read TARGET=MODULE:FUNCTION; modules in the current folder are found too."""
    target, equals, reference = text.partition("=")
    if not (target and equals and reference.partition(":")[2]):
        raise InputError(f"--engine: got {text!r}, expected TARGET=MODULE:FUNCTION, such as coreml=interpreter:open")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return target, resolve(reference)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--engine {text}: {error}; check the name, and install what it needs") from error


def _remarks(notes: Sequence[str], absent: Sequence[Absence]) -> None:
    for note in notes:
        remark(f"note: {note}")
    for absence in absent:
        remark(f"not run: {absence.name}: {absence.reason}")


class _Progress(VerifyProgress):
    """Shows what is under way on standard error, and keeps the images when a report will show them."""

    def __init__(self, *, keep: bool) -> None:
        columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        self.pairs: list[ImagePair] = []
        self.sets: dict[str, Sequence[NDArray[np.float32]]] = {}
        self._keep = keep
        self._progress = Progress(*columns, console=err)
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, text: str, done: int, total: int) -> None:
        """Show the stage, and how far it is when it has several steps."""
        self._progress.update(self._task, description=f"{text} ({done}/{total})" if total > 1 else text)

    def images(self, pair: ImagePair) -> None:
        """Keep them for the report."""
        if self._keep:
            self.pairs.append(pair)

    def generated(self, name: str, images: Sequence[NDArray[np.float32]]) -> None:
        """Keep them for the report."""
        if self._keep:
            self.sets[name] = images
