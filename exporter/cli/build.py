"""`diffoundry build`: adds engines to a bundle, without the checkpoint and without PyTorch's part of an export."""

import os
import time
from pathlib import Path
from typing import Any

import click

from diffoundry.exporter.add_engines import add_engines, pending_variants
from diffoundry.exporter.cli.budget import budget_options, take_budget
from diffoundry.exporter.cli.export import joined, parse_variants
from diffoundry.exporter.cli.progress import jobs_json, jobs_table, show_progress, tell_pending
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.console import out, print_json
from diffoundry.runtime.cli.options import bundle_argument, json_option
from diffoundry.runtime.errors import InputError

__all__ = ["command"]


@click.command("build", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@bundle_argument
@click.option("--target", multiple=True, callback=joined, help="What to compile for, or several: openvino,onnxruntime.")
@click.option("--precision", multiple=True, callback=joined, help="Or several: bf16,fp32.  [default: fp32]")
@budget_options
@click.option("--overwrite", is_flag=True, help="Build engines anew that are there already.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    bundle: Path,
    *,
    target: str | None,
    precision: str | None,
    overwrite: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Add engines to the bundle DIR from its own graphs: --target and --precision, or else those still to be built.

    A bundle that was exported for TensorRT on a machine without it is finished so on the machine that has it.
    """
    started = time.perf_counter()
    if target is None and (precision is not None or context.args):
        raise InputError(
            "build: got a precision or options without --target, expected both, or neither for what is pending"
        )
    variants = () if target is None else parse_variants(target, precision, context.args)
    manifest = Bundle(bundle).manifest
    pending = pending_variants(manifest) if manifest else ()
    count = len(variants or pending) * len(manifest.components if manifest else ())
    with show_progress(count) as tell:
        report = add_engines(bundle, variants, tell, quantization=take_budget(values), overwrite=overwrite)
    seconds = time.perf_counter() - started
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
    tell_pending(report.manifest)
    out.print(f"{bundle}: {len(report.done) + len(report.kept)} engines in {seconds:.1f} s", soft_wrap=True)
