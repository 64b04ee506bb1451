"""Renders sections to HTML with the template beside this file. Needs jinja2; plots need matplotlib."""

import base64
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

import diffoundry
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.report.plots import bars_svg, curves_svg
from diffoundry.runtime.report.sections import Bars, Cell, Curves, Gate, Section, Table

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["render"]

_NUMBER = re.compile(r"[-+−±]?(\d|inf|nan|∞)")

_BLANKS = ("", "-", "–")

_SMALLEST = 128
"""Images narrower than this many CSS pixels are enlarged to it."""


def render(title: str, sections: Sequence[Section], text: str = "", *, passed: bool | None = None) -> str:
    """Render the page as text; see `write_report`.

    Raises:
        InputError: A table row has too many or too few cells.
    """
    for section in sections:
        if isinstance(section, Table):
            _check_rows(section)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "paragraphs": _paragraphs,
        "png": _png_uri,
        "width": _shown_width,
        "numeric_columns": _numeric_columns,
        "gate": lambda cell: isinstance(cell, Gate),
        "plot": _plot,
    }
    template = environment.from_string(Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8"))
    return template.render(title=title, text=text, passed=passed, sections=sections, version=diffoundry.__version__)


def _check_rows(table: Table) -> None:
    for index, row in enumerate(table.rows):
        if len(row) != len(table.columns):
            raise InputError(
                f"table {table.title!r}, row {index}: got {len(row)} cells, expected {len(table.columns)}, "
                f"one for each of {', '.join(table.columns)}"
            )


def _paragraphs(text: str) -> Iterable[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def _png_uri(image: "Image") -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _shown_width(image: "Image") -> int:
    return max(image.width, _SMALLEST)


def _numeric_columns(table: Table) -> list[bool]:
    """Return for each column whether its cells are numbers, or blanks and dashes between numbers."""
    columns = [[row[index] for row in table.rows] for index in range(len(table.columns))]
    return [any(map(_is_number, cells)) and all(_is_number(c) or c in _BLANKS for c in cells) for cells in columns]


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, str) and _NUMBER.match(cell) is not None


def _plot(section: Bars | Curves) -> Markup:
    svg = bars_svg(section) if isinstance(section, Bars) else curves_svg(section)
    return Markup(svg)  # noqa: S704  # made by matplotlib, which escapes the labels
