"""Output of the command line: results on standard output, progress and remarks on standard error."""

import json
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["bar", "err", "out", "print_json", "remark", "size_text"]

out = Console(highlight=False)

err = Console(stderr=True, highlight=False)


def remark(text: str) -> None:
    """Print a line for the user on standard error."""
    err.print(text, markup=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """Print a result for programs on standard output."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def bar() -> Progress:
    """A progress bar on standard error, with its task, counts and times."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
    )


def size_text(count: int) -> str:
    """Bytes in words: 21.3 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
