"""Sections of a report as plain data, free of HTML and of any library for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "Bar",
    "Bars",
    "Cell",
    "Curve",
    "Curves",
    "Facts",
    "Gate",
    "Images",
    "Panel",
    "ReportImage",
    "Section",
    "Table",
    "Text",
    "Tile",
    "Tiles",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """A table cell with the result of a check.

    Attributes:
        passed: True or False, or None where nothing was checked.
        text: Text beside the mark, such as "at least 60 dB".
    """

    passed: bool | None
    text: str = ""


Cell = str | Gate
"""A table cell. Numbers are formatted as text by the caller, who knows their precision; they are right-aligned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A section of text alone.

    Attributes:
        title: Heading of the section.
        text: Plain text; an empty line begins a new paragraph.
    """

    kind: ClassVar[str] = "text"
    title: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One figure of a headline.

    Attributes:
        value: The figure with its unit, such as "2.5 x".
        label: Name of the figure.
        note: A second, quieter line, such as the figure it is compared with.
    """

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiles:
    """The most important figures, in large type side by side.

    Attributes:
        title: Heading of the section.
        tiles: In reading order.
        text: Plain text above; an empty line begins a new paragraph.
    """

    kind: ClassVar[str] = "tiles"
    title: str
    tiles: Sequence[Tile]
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportImage:
    """One image of a grid.

    Attributes:
        image: A PIL image of any size; small ones are enlarged.
        caption: Text below it, and its alternative text.
        note: A second, quieter line, such as "98.2 dB".
    """

    image: "Image"
    caption: str
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """Images side by side.

    Attributes:
        title: Heading of the section.
        images: In reading order.
        columns: Images in a row, so that images in a column correspond; None fills the width.
        text: Plain text above; an empty line begins a new paragraph.
    """

    kind: ClassVar[str] = "images"
    title: str
    images: Sequence[ReportImage]
    columns: int | None = None
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table.

    Attributes:
        title: Heading of the section.
        columns: Headings.
        rows: Cells, as many in each row as there are headings; the first cell of a row names it.
        text: Plain text above; an empty line begins a new paragraph.
    """

    kind: ClassVar[str] = "table"
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar of a plot.

    Attributes:
        label: Name of the bar; the same label has the same colour in every panel.
        value: Length of the bar.
        low: Lower end of the spread.
        high: Upper end of the spread.
    """

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Bars on one scale from zero.

    Attributes:
        title: Measured quantity.
        bars: From top to bottom.
    """

    title: str
    bars: Sequence[Bar]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """Panels of bars below each other, each with its own scale.

    Attributes:
        title: Heading of the section.
        panels: From top to bottom.
        unit: Unit of all values, such as "ms".
        text: Plain text above; an empty line begins a new paragraph.
    """

    kind: ClassVar[str] = "bars"
    title: str
    panels: Sequence[Panel]
    unit: str
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One line of a plot.

    Attributes:
        label: Name of the line; lines without one are drawn in grey behind the others.
        values: At x = 1, 2, 3 ...; zero, NaN and infinity leave a gap.
        limit: Largest allowed value, drawn as a dashed line of the same colour, or None.
    """

    label: str
    values: Sequence[float]
    limit: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Lines over whole numbers, on a logarithmic scale.

    Attributes:
        title: Heading of the section.
        curves: In the order of the legend.
        x: Counted quantity, such as "step".
        y: Measured quantity, with its unit.
        text: Plain text above; an empty line begins a new paragraph.
    """

    kind: ClassVar[str] = "curves"
    title: str
    curves: Sequence[Curve]
    x: str
    y: str
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Names and values, such as those of the machine.

    Attributes:
        title: Heading of the section.
        facts: Name to value, in this order.
        text: Plain text above; an empty line begins a new paragraph.
    """

    kind: ClassVar[str] = "facts"
    title: str
    facts: Mapping[str, str]
    text: str = ""


Section = Text | Tiles | Images | Table | Bars | Curves | Facts
"""Any section of a report."""
