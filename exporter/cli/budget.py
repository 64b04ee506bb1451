"""Options of calibration, which `export` and `build` share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from diffoundry.calibration.prompts import read_prompts
from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.ray_workers import check_address
from diffoundry.runtime.engines.available_memory import parse_bytes

__all__ = ["budget_options", "take_budget"]

Command = TypeVar("Command", bound=Callable[..., Any])

_quantization = options_in("Quantization")


def budget_options(command: Command) -> Command:
    """Add --min-psnr, --max-size, --calibration-prompts, --no-calibration and --ray."""
    for option in (
        _quantization(
            "--ray",
            metavar="ADDRESS",
            help="Measure layers on a Ray cluster: HOST:PORT, auto for the one of this machine, or local to start one.",
        ),
        _quantization(
            "--no-calibration",
            is_flag=True,
            help="Quantize every layer and generate no image, which saves memory: for int8-weights and int4-weights.",
        ),
        _quantization(
            "--calibration-prompts",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="A text file of prompts to calibrate with, one a line.  [default: built in]",
        ),
        _quantization("--max-size", help="Quantize until the graphs fit: 500MB, 1.2GB."),
        _quantization(
            "--min-psnr",
            type=float,
            help="Lowest PSNR in dB against fp32, on prompts that calibration has not used.  "
            "[default: depends on the precision]",
        ),
    ):
        command = option(command)
    return command


def take_budget(values: dict[str, Any]) -> QuantizationRequest:
    """Move the values of `budget_options` out of a command's arguments.

    Raises:
        InputError: A size that cannot be read, an impossible limit, a file of prompts that cannot be read, or one of
            them with --no-calibration.
        MissingExtraError: Ray is not installed.
    """
    if (ray := values.pop("ray")) is not None:
        check_address(ray)
    file, size, psnr = (values.pop(name) for name in ("calibration_prompts", "max_size", "min_psnr"))
    calibrate = not values.pop("no_calibration")
    budget = Budget(min_psnr=psnr, max_size=None if size is None else parse_bytes(size, "--max-size"))
    if file is None:
        return QuantizationRequest(budget=budget, calibrate=calibrate, ray=ray)
    prompts, held_out = read_prompts(file)
    return QuantizationRequest(budget=budget, prompts=prompts, held_out=held_out, calibrate=calibrate, ray=ray)
