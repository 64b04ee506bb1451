"""`diffoundry build`: adds engines to a bundle, without the checkpoint and without PyTorch."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffoundry.exporter.cli.budget import budget_options, take_budget
from diffoundry.exporter.cli.progress import jobs_json, jobs_table, show_progress, tell_engine_notes
from diffoundry.exporter.cli.words import first_word, joined, parse_variants
from diffoundry.exporter.work_folder import BUILD_ENDING, recover_build
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.hub import find_bundle
from diffoundry.runtime.cli.completion import complete_precision, complete_target
from diffoundry.runtime.cli.console import out, print_json
from diffoundry.runtime.cli.help import Command, options_in
from diffoundry.runtime.cli.options import json_option
from diffoundry.runtime.errors import InputError

if TYPE_CHECKING:
    from diffoundry.exporter.add_engines import AddEnginesReport

__all__ = ["command"]

_engines = options_in("Engines")

_EXAMPLES = (
    "diffoundry build emoji.bundle --target openvino --precision bf16,fp32",
    "diffoundry build emoji.bundle --target onnxruntime --precision int8 --min-psnr 30",
    "diffoundry build sd15.bundle",
)


@click.command(
    "build",
    cls=Command,
    examples=_EXAMPLES,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="DIR")
@_engines(
    "--target",
    multiple=True,
    callback=joined,
    shell_complete=complete_target,
    help="Target, or several: openvino,onnxruntime.",
)
@_engines(
    "--precision",
    multiple=True,
    callback=joined,
    shell_complete=complete_precision,
    help="Or several: bf16,fp32.  [default: fp32]",
)
@_engines("--overwrite", is_flag=True, help="Build existing engines again.")
@budget_options
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    words: tuple[str, ...],
    *,
    target: str | None,
    precision: str | None,
    overwrite: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Add engines to the bundle DIR from its own graphs.

    Without --target, the pending engines are built: those of a bundle that was exported for TensorRT on a machine
    without it. Options of a target are added at the end: 'diffoundry targets NAME' lists them.
    """
    started = time.perf_counter()
    named, rest = first_word(context, words)
    if named is None:
        raise click.UsageError("Missing argument 'DIR'.", context)
    bundle = find_bundle(named)
    options = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
    if target is None and (precision is not None or rest):
        raise InputError(
            "--target: got none with --precision or options of a target, expected it; or leave out all of them to "
            "build the pending engines"
        )
    variants = () if target is None else parse_variants(target, precision, rest, options)
    quantization = take_budget(values)
    recover_build(bundle)
    manifest = Bundle(bundle).manifest

    from diffoundry.exporter.add_engines import add_engines, pending_variants  # imports the graph libraries

    pending = pending_variants(manifest) if manifest else ()
    count = len(variants or pending) * len(manifest.components if manifest else ())
    with show_progress(count, "build", bundle.with_name(f"{bundle.name}{BUILD_ENDING}")) as progress:
        report = add_engines(bundle, variants, progress, quantization=quantization, overwrite=overwrite)
    _print_report(report, bundle, time.perf_counter() - started, as_json=as_json)


def _print_report(report: "AddEnginesReport", bundle: Path, seconds: float, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "bundle": os.fspath(bundle),
                "seconds": round(seconds, 3),
                "variants": [f"{variant.target} {variant.precision}" for variant in report.variants],
                "kept": list(report.kept),
                "jobs": jobs_json(report.done),
            }
        )
        return
    out.print(jobs_table(report.done, report.kept, report.manifest))
    tell_engine_notes(report.manifest)
    out.print(f"{bundle}: {len(report.done) + len(report.kept)} engines in {seconds:.1f} s", soft_wrap=True)
