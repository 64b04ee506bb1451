"""Output of the command line: results on standard output, progress and remarks on standard error."""

import errno
import os
import sys
from collections.abc import Iterable
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from diffoundry.runtime.cli.safe_text import safe_json, safe_text

__all__ = ["bar", "err", "is_quiet", "make_table", "out", "prepare_output", "print_json", "remark", "set_quiet",
           "size_text", "stop_output", "warn"]  # fmt: skip


class _SafeConsole(Console):
    """A console that prints text as it is: without markup, and control characters as escapes."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape control characters before the text is measured."""
        return super().render_str(safe_text(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape control characters of every other renderable."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=safe_text(segment.text))


out = _SafeConsole()

err = _SafeConsole(stderr=True)

_STREAM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)

_quiet = False


def set_quiet(*, quiet: bool) -> None:
    """Turn progress and remarks off, or on again."""
    global _quiet  # noqa: PLW0603  # one setting of the process, as the streams are
    _quiet = quiet


def is_quiet() -> bool:
    """Return True if the user passed --quiet."""
    return _quiet


def prepare_output() -> None:
    """Let both streams write characters that their encoding lacks as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def stop_output(error: OSError) -> bool:
    """Return True if standard output cannot be written; its rest is then discarded, so that the exit is silent.

    Args:
        error: Error of a write; without a file's name it is a stream's.
    """
    if error.errno not in _STREAM_ERRORS or error.filename is not None or sys.stdout is None:
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def remark(text: str) -> None:
    """Print a line for the user on standard error, unless --quiet."""
    if not _quiet:
        err.print(text, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning on standard error, in red on a terminal, with --quiet too."""
    err.print(text, style="bold red", soft_wrap=True)


def print_json(data: Any) -> None:
    """Print a result for programs on standard output."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(safe_json(data, ascii_only=not encoding.lower().startswith("utf")))


def make_table(*columns: str, numbers: Iterable[str] = (), caption: str | None = None) -> Table:
    """Make a table without frames, which reads in a terminal of 80 columns; long words are folded, never cut.

    Args:
        columns: Headings.
        numbers: Headings of the columns that hold numbers and are aligned to the right.
        caption: Line below the table.
    """
    right = set(numbers)
    heads = [Column(name, overflow="fold", justify="right" if name in right else "left") for name in columns]
    return Table(
        *heads, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=caption, caption_justify="left"
    )


def bar() -> Progress:
    """A progress bar on standard error, with its task, counts and times; invisible unless that is a terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=_quiet or not err.is_terminal,
    )


def size_text(count: int) -> str:
    """Bytes in words: 21.3 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
