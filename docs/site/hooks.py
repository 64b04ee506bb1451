"""MkDocs hooks: fill in what pages show of the code, the command line and the order of the passes."""

import ast
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from diffoundry.runtime.cli.group import COMMANDS, group

_EXAMPLES = re.compile(r"(?:^  diffoundry .*(?:\n|\Z))+", re.MULTILINE)
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("calibration", "exporter", "models", "runtime", "targets")


class _Markdown(click.HelpFormatter):
    """Formats the help of a command as Markdown: a heading and a table for each group of options."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:  # noqa: ARG002  # click's signature
        self.write(f"```text\n{prog} {args}\n```\n\n")

    def write_heading(self, heading: str) -> None:
        self.write(f"**{heading}**\n\n")

    def write_paragraph(self) -> None:
        self.write("\n")

    def write_text(self, text: str) -> None:
        self.write(f"{_escape(text)}\n\n")

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:  # noqa: ARG002  # click's signature
        self.write("| | |\n|---|---|\n")
        for name, text in rows:
            self.write(f"| `{name.replace('|', chr(92) + '|')}` | {_escape(text)} |\n")
        self.write("\n")


def on_startup(**_kwargs: Any) -> None:
    """Lay out the package for mkdocstrings, which reads files: in the repository it has no common folder."""
    package = Path("build/reference/diffoundry")
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    for name in _PACKAGES:
        if not (package / name).exists():
            (package / name).symlink_to(_ROOT / name)


def on_page_markdown(markdown: str, **_kwargs: Any) -> str:
    """Replace the placeholders that pages have for parts of the code."""
    for place, make in {"<!-- commands -->": _commands, "<!-- passes -->": _passes}.items():
        if place in markdown:
            markdown = markdown.replace(place, make())
    return markdown


def _commands() -> str:
    parent = click.Context(group, info_name="diffoundry")
    return "\n\n".join(f"## {name}\n\n{_help(name, parent)}" for name in COMMANDS)


def _passes() -> str:
    """The function that returns the passes in their order, with a reason beside each, as it is in the file."""
    text = (_ROOT / "exporter/passes/pipeline.py").read_text(encoding="utf-8")
    function = next(node for node in ast.parse(text).body if getattr(node, "name", None) == "portable_passes")
    return f"```python\n{ast.get_source_segment(text, function)}\n```"


def _help(name: str, parent: click.Context) -> str:
    command = group.get_command(parent, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=parent)
    context.formatter_class = _Markdown
    return _EXAMPLES.sub(lambda lines: f"```sh\n{textwrap.dedent(lines[0]).strip()}\n```\n", command.get_help(context))


def _escape(text: str) -> str:
    for character in "|<>*_[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
