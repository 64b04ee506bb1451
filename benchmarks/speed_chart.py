"""Draws the chart of the README from the measurements in benchmarks/results/speed.json.

python benchmarks/speed_chart.py [docs/images/speed.svg]
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_NUMBERS = Path(__file__).parent / "results/speed.json"
_OURS, _OTHERS = "#5e35b1", "#b0b0b0"


def main(path: str = "docs/images/speed.svg") -> None:
    """Write both panels side by side."""
    mpl.rcParams.update({"svg.hashsalt": "diffoundry", "font.size": 10})
    panels = json.loads(_NUMBERS.read_text(encoding="utf-8"))["panels"]
    figure, axes = plt.subplots(1, len(panels), figsize=(14, 2.7), layout="constrained")
    for panel, axis in zip(panels, axes, strict=True):
        _draw(axis, panel)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    print(path)


def _draw(axis: Axes, panel: dict[str, Any]) -> None:
    bars = panel["bars"][::-1]
    values = [bar["value"] for bar in bars]
    drawn = axis.barh([bar["name"] for bar in bars], values, color=[_OURS if bar["ours"] else _OTHERS for bar in bars])
    slowest = max(values)
    labels = [f"{value:g}" + ("" if value == slowest else f"   {slowest / value:.1f} x") for value in values]
    axis.bar_label(drawn, labels, padding=4)
    axis.set_title(f"{panel['title']}, {panel['unit']}", fontsize=11, fontweight="bold", loc="left")
    axis.set_xlabel(f"{panel['machine']}\n{panel['settings']}", fontsize=9, color="#555555")
    axis.set_xlim(0, 1.3 * slowest)
    axis.set_xticks([])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
