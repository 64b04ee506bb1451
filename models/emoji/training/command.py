"""Shared parts of the training commands: options, devices, interruption."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from diffoundry.runtime.errors import DiffoundryError, InputError

__all__ = ["add_generation", "add_schedule", "add_shared", "positive", "report", "run"]

_CACHE = Path.home() / ".cache" / "diffoundry" / "emoji"


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Add the options that all commands share."""
    parser.add_argument(
        "--data", type=Path, default=_CACHE, help="where the npm packages are kept (default: %(default)s)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")


def add_generation(parser: argparse.ArgumentParser) -> None:
    """Add the options for generating images, which every score has."""
    add = parser.add_argument
    add("--only", nargs="+", metavar="LABEL", help="generate these labels; default: all")
    add("--guidance", type=float, default=4.0)
    add("--steps", type=int, default=25)
    add("--seed", type=int, default=0)
    add("--batch", type=int, default=32, help="prompts at once (default: %(default)s)")
    add("--json", action="store_true", help="print the score as JSON")


def add_schedule(parser: argparse.ArgumentParser) -> None:
    """Add the options of a stage's schedule, which every training command has."""
    add = parser.add_argument
    add("--resume", action="store_true", help="continue from the checkpoints in OUT")
    add("--steps", type=positive(int), help="length of a stage's schedule")
    add("--minutes", type=positive(float), help="stop a stage, resumably, after this long")
    add("--batch", type=positive(int), help="images a step")
    add("--lr", type=positive(float), help="highest learning rate")
    add("--warmup", type=positive(int), help="steps until the rate is reached")
    add("--seed", type=int, help="of initial weights, batches and noise")
    add("--save-every", type=positive(int), default=200, help="steps between checkpoints (default: %(default)s)")


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """Make an option's type: a number above zero."""

    def parse(text: str) -> float:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"must be above zero, got {text}")
        return value

    return parse


def report(line: str) -> None:
    """Print one line of progress to standard error: only results go to standard output."""
    print(line, file=sys.stderr, flush=True)


def run(
    what: str,
    work: Callable[[argparse.Namespace], None],
    options: argparse.Namespace,
    needs: Sequence[str] = ("torch", "diffusers", "transformers"),
) -> int:
    """Check the requirements, then do the work; a user's error becomes one line.

    Args:
        what: names the work in the message about a missing package.
        work: imports PyTorch only when called, so that `--help` neither needs it nor waits for it.
        options: `device` among them.
        needs: required modules, of the extra `train` of this package.

    Returns:
        The exit code.
    """
    try:
        for module in needs:
            if importlib.util.find_spec(module) is None:
                raise InputError(
                    f"{what} needs {module}, which is not installed. From a clone of the repository, install it "
                    f"with: pip install './models[train]'"
                )
        _prepare(options.device)
        work(options)
    except DiffoundryError as error:
        report(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        report("stopped")
        return 130
    return 0


def _prepare(device: str) -> None:
    import diffusers
    import torch
    import transformers

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device here. Use --device cpu.")
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
