"""HTML reports: one self-contained page from sections that are plain data.

from diffoundry.runtime.cli.report import Gate, Picture, Pictures, Table, write_report

write_report(
    Path("report.html"),
    "emoji.bundle",
    [
        Pictures(title="Pictures", pictures=[Picture(image=image, caption="red apple")]),
        Table(title="Parity", columns=["component", "max abs", "gate"], rows=[["unet", "2.1e-06", Gate(passed=True)]]),
    ],
)

Needs the extra `report` (jinja2, matplotlib), asked for only when a page is written.
"""

from diffoundry.runtime.cli.report.sections import (
    Bar,
    Bars,
    Cell,
    Curve,
    Curves,
    Facts,
    Gate,
    Panel,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
)
from diffoundry.runtime.cli.report.write import require_report, write_report

__all__ = [
    "Bar",
    "Bars",
    "Cell",
    "Curve",
    "Curves",
    "Facts",
    "Gate",
    "Panel",
    "Picture",
    "Pictures",
    "Section",
    "Table",
    "Text",
    "require_report",
    "write_report",
]
