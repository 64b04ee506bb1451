"""HTML reports: one self-contained page from sections that are plain data.

from diffoundry.runtime.report import Gate, ReportImage, Images, Table, write_report

write_report(
    Path("report.html"),
    "emoji.bundle",
    [
        Images(title="Images", images=[ReportImage(image=image, caption="red apple")]),
        Table(title="Parity", columns=["component", "max abs", "gate"], rows=[["unet", "2.1e-06", Gate(passed=True)]]),
    ],
)

Needs the extra `report` (jinja2, matplotlib), which is imported only when a page is written.
"""

from diffoundry.runtime.report.sections import (
    Bar,
    Bars,
    Cell,
    Curve,
    Curves,
    Facts,
    Gate,
    Images,
    Panel,
    ReportImage,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
)
from diffoundry.runtime.report.write import check_report_path, require_report, write_report

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
    "check_report_path",
    "require_report",
    "write_report",
]
