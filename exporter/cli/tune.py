"""`diffoundry tune`: searches the fastest approximation of the loop within a budget, and stores it as a preset."""

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffoundry.exporter.cli.verify_options import ProgressLine
from diffoundry.exporter.verify.prompts import PROMPTS
from diffoundry.exporter.verify.request import VerifyRequest
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.edit_config import complete_edit, replace_json
from diffoundry.runtime.cli.console import out, print_json, remark
from diffoundry.runtime.cli.help import Command, options_in
from diffoundry.runtime.cli.options import (
    SEED,
    bundle_argument,
    engine_options,
    json_option,
    named_as_typed,
    take_engine_options,
)
from diffoundry.runtime.cli.ray_workers import check_address
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.presets import PRESETS_FILE, read_presets

if TYPE_CHECKING:
    from diffoundry.exporter.tune.session import Tuned

__all__ = ["command"]

_EXAMPLES = (
    "diffoundry tune emoji.bundle --min-psnr 40",
    "diffoundry tune sd15.bundle --min-psnr 35 --ray auto",
    "diffoundry tune sd15.bundle --min-psnr 30 --steps 25 --prompts 4 --preset draft",
)

_images, _search = options_in("Images"), options_in("Search")

_MOST_DB = 120.0

_SCALE = 7.5
"""Default guidance scale of the measurements, as in `verify`."""


@click.command("tune", cls=Command, examples=_EXAMPLES)
@bundle_argument
@_search(
    "--min-psnr",
    type=click.FloatRange(0, _MOST_DB),
    required=True,
    metavar="DB",
    help="Least mean PSNR to the exact loop, over prompts that the search has not seen.",
)
@_search("--preset", default="fast", show_default=True, help="Name under which the result is stored in the bundle.")
@_images("--prompt", "given", multiple=True, help="Generate this prompt. Give at least two.")
@_images(
    "--prompts",
    type=click.IntRange(2, len(PROMPTS)),
    default=8,
    show_default=True,
    help="Number of built-in prompts, if there is no --prompt. Every second one is held out.",
)
@_images("--seed", "seeds", type=SEED, multiple=True, help="Seed. May be repeated.  [default: 0]")
@_images(
    "--steps",
    also=("--num-inference-steps",),
    type=click.IntRange(min=1),
    default=25,
    show_default=True,
    help="Steps of the exact loop.",
)
@_images("--guidance-scale", type=float, help="1 or less turns guidance off. The preset keeps it.  [default: 7.5]")
@_search(
    "--ray",
    metavar="ADDRESS",
    help="Search on the Ray cluster at HOST:PORT, on that of this machine (auto), or on one that is started for the "
    "command (local). Times are measured here.",
)
@engine_options
@json_option
@named_as_typed()
def command(
    bundle: Path, *, min_psnr: float, preset: str, ray: str | None, as_json: bool, **values: Any
) -> None:  # fmt: skip
    """Search the approximation with which the bundle DIR is fastest within --min-psnr, and store it as a preset.

    Steps, schedulers, guidance intervals and caches are tried together. 'generate --preset' uses the result. The exit
    code is 1 if nothing is within the budget.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", preset):
        raise InputError(f"--preset: got {preset!r}, expected a name of letters, digits, - and _")
    if ray is not None:
        check_address(ray)
    given = values.pop("given")
    if len(given) == 1:
        raise InputError("--prompt: got one, expected at least two: every second one is held out of the search")
    count, seeds = values.pop("prompts"), values.pop("seeds")
    steps, scale = values.pop("steps"), values.pop("guidance_scale")
    engines = take_engine_options(values)
    sampling = {"steps": steps, "guidance_scale": _SCALE if scale is None else scale}
    request = VerifyRequest(prompts=given or PROMPTS[:count], seeds=seeds or (0,), **sampling, **engines)
    if (bundle / PRESETS_FILE).exists():
        complete_edit(bundle, PRESETS_FILE)  # an edit that was interrupted keeps a bundle shut
    opened = Bundle(bundle)
    known = read_presets(opened)

    from diffoundry.exporter.tune.session import tune  # imports PyTorch: after every check of words

    with ProgressLine(keep=False) as progress:
        result = tune(opened, request, min_psnr, progress.update, ray)
    if result.found is not None:
        replace_json(opened, PRESETS_FILE, {**known, preset: _preset(result, scale)})
    if as_json:
        print_json(_report(result, preset))
    else:
        _tell(result, preset, bundle, min_psnr)
    if result.found is None:
        sys.exit(1)


def _preset(result: "Tuned", scale: float | None) -> dict[str, Any]:
    """Return the arguments of a call, and their measured price."""
    assert result.found is not None
    assert result.held_out is not None
    report = result.held_out
    return {
        "arguments": {
            "num_inference_steps": result.settings.steps,
            **({} if scale is None else {"guidance_scale": scale}),
            **result.found.arguments(),
        },
        "measured": {
            "engines": result.name,
            "guidance_scale": result.settings.guidance_scale,
            "images": report.images,
            "psnr": round(report.psnr, 2),
            "worst_psnr": round(report.worst_psnr, 2),
            "ssim": round(report.ssim, 5),
            "times_as_few_rows": round(report.fewer_rows, 3),
            "times_as_fast": round(report.times_as_fast, 3),
        },
    }


def _report(result: "Tuned", preset: str) -> dict[str, Any]:
    reports = {"searched": result.searched, "held_out": result.held_out}
    return {
        "engines": result.name,
        "preset": None if result.found is None else preset,
        "approximation": None if result.found is None else result.found.text,
        "tried": result.tried,
        **{name: None if report is None else asdict(report) for name, report in reports.items()},
    }


def _tell(result: "Tuned", preset: str, bundle: Path, min_psnr: float) -> None:
    from diffoundry.exporter.cli.tune_tables import approximation_table

    if result.held_out is None:
        remark(
            f"none of {result.tried} approximations is within {min_psnr:g} dB of the exact loop in "
            f"{result.settings.steps} steps; lower --min-psnr, or raise --steps, which leaves more to forecast"
        )
        return
    out.print(approximation_table(f"{result.name}, held-out prompts, {result.settings.steps} steps", [result.held_out]))
    out.print(f"stored as preset {preset!r}: diffoundry generate {bundle} PROMPT --preset {preset}", soft_wrap=True)
