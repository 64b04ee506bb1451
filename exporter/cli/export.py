"""`diffoundry export`: compiles a checkpoint into a bundle."""

import os
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import click

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.checkpoints.single_file import PREDICTION_TYPES
from diffoundry.exporter.cli.budget import budget_options, take_budget
from diffoundry.exporter.cli.progress import jobs_json, jobs_table, show_progress, tell_pending
from diffoundry.exporter.export import ExportReport, ExportRequest, export
from diffoundry.exporter.recipe import parse_buckets, parse_dim
from diffoundry.runtime.adapters.adapter_set import check_not_pickled
from diffoundry.runtime.bundle.checksums import sha256_of
from diffoundry.runtime.bundle.specs import PRECISIONS, FusedLora, Variant
from diffoundry.runtime.cli.adapters import parse_lora
from diffoundry.runtime.cli.console import err, out, print_json, size_text
from diffoundry.runtime.cli.options import json_option
from diffoundry.runtime.cli.target_options import parse_target_options
from diffoundry.runtime.errors import InputError

__all__ = ["command", "joined", "parse_variants", "read_loras"]


def joined(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> str | None:
    """Join a repeated option: the same as once with commas between."""
    return ",".join(values) or None


@click.command("export", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option(
    "--model",
    required=True,
    help="A diffusers folder, a single .safetensors file, a hub id, or an alias: emoji, sd15, sdxl ...",
)
@click.option(
    "--target",
    required=True,
    multiple=True,
    callback=joined,
    help="What to compile for, or several: openvino,onnxruntime.",
)
@click.option(
    "--precision",
    multiple=True,
    callback=joined,
    help=f"Or several, the preferred first: bf16,fp32. One of {', '.join(PRECISIONS)}.  [default: fp32]",
)
@click.option("--batch", help="Rows of one engine call (a guided image takes two): 2, or a range 1..8.  [default: any]")
@click.option("--height", help="Pixels: 512, or a range 256..1024.  [default: any]")
@click.option("--width", help="Pixels: 512, or a range 256..1024.  [default: any]")
@click.option("--buckets", help="The only sizes, WIDTHxHEIGHT, each compiled by itself: 512x512,768x512.")
@budget_options
@click.option("--random-weights", is_flag=True, help="Build an alias's architecture with seeded random weights.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random weights.")
@click.option(
    "--lora", multiple=True, metavar="FILE[:SCALE]", help="Add a LoRA to the weights; may be repeated.  [scale: 1]"
)
@click.option(
    "--controlnet", multiple=True, metavar="NAME|DIR", help="Join a ControlNet: an alias or a folder; may be repeated."
)
@click.option(
    "--vae", metavar="DIR", help="Take this AutoencoderTiny or AutoencoderKL in the place of the model's own."
)
@click.option("--no-safety-checker", is_flag=True, help="Leave out the checkpoint's safety checker.")
@click.option(
    "--prediction-type",
    type=click.Choice(PREDICTION_TYPES),
    help="What the UNet of a single file predicts.  [default: as it says]",
)
@click.option("--overwrite", is_flag=True, help="Replace the bundle at DIR when the new one is complete.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="DIR")
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    model: str,
    target: str,
    precision: str | None,
    buckets: str | None,
    random_weights: bool,
    seed: int,
    lora: tuple[str, ...],
    controlnet: tuple[str, ...],
    vae: str | None,
    no_safety_checker: bool,
    prediction_type: str | None,
    overwrite: bool,
    output: Path,
    as_json: bool,
    **values: Any,
) -> None:
    """Compile a checkpoint into the bundle DIR, one process a job; an interrupted export continues.

    A target's own options are typed behind: 'diffoundry targets NAME' lists them.
    """
    started = time.perf_counter()
    variants = parse_variants(target, precision, context.args)
    quantization = take_budget(values)
    if buckets is not None and (values["height"] or values["width"]):
        raise InputError("buckets: got them with --height or --width, expected one of the two ways to name sizes")
    request = ExportRequest(
        variants=variants,
        dims={name: parse_dim(name, text) for name, text in values.items() if text},
        buckets=parse_buckets(buckets) if buckets is not None else (),
        quantization=quantization,
        overwrite=overwrite,
    )
    without = ("safety_checker",) if no_safety_checker else ()
    plain = open_checkpoint(
        model, random_weights=random_weights, seed=seed, prediction_type=prediction_type, without=without, vae=vae
    )
    checkpoint = plain.with_controlnets(controlnet).with_loras(read_loras(lora))
    for notice in checkpoint.notices():
        err.print(f"note: {notice}", markup=False, soft_wrap=True)
    with show_progress(len(checkpoint.components) * (1 + len(variants))) as tell:
        report = export(checkpoint, request, output, tell)
    seconds = time.perf_counter() - started
    if as_json:
        print_json(_as_json(report, output, seconds))
        return
    out.print(jobs_table(report.done, report.kept, report.manifest))
    tell_pending(report.manifest)
    total = sum(file.size for file in report.manifest.files.values())
    out.print(f"{output}: {size_text(total)} in {seconds:.1f} s", soft_wrap=True)


def parse_variants(targets: str, precisions: str | None, arguments: list[str]) -> tuple[Variant, ...]:
    """Every target in every precision, fp32 where none is named, targets first, with their options.

    Raises:
        ConfigError: An option that no target has.
        InputError: An unknown target.
    """
    names = _words(targets)
    options = parse_target_options(arguments, names)
    return tuple(
        Variant(target=name, precision=precision, options=options[name])
        for name, precision in product(names, _words(precisions or "fp32"))
    )


def read_loras(texts: Sequence[str]) -> Iterator[FusedLora]:
    """The LoRAs that are named, with their sums.

    Raises:
        InputError: A file is not there or pickled, or a scale is no number.
    """
    for text in texts:
        path, scale = parse_lora(text)
        check_not_pickled(Path(path))
        if not Path(path).is_file():
            raise InputError(f"--lora: got {path!r}, which is no file, expected a LoRA in safetensors")
        yield FusedLora(file=path, scale=scale, sha256=sha256_of(Path(path)))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _as_json(report: ExportReport, output: Path, seconds: float) -> dict[str, Any]:
    return {
        "bundle": os.fspath(output),
        "seconds": round(seconds, 3),
        "bytes": sum(file.size for file in report.manifest.files.values()),
        "kept": list(report.kept),
        "jobs": jobs_json(report.done),
    }
