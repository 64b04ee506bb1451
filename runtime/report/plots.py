"""Plots as SVG text that follows the page's colours, light or dark. Needs matplotlib."""

import io
import re
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diffoundry.runtime.report.sections import Bar, Bars, Curve, Curves, Panel

__all__ = ["bars_svg", "curves_svg"]

# matplotlib lacks CSS variables, so it draws in placeholder colours that occur nowhere else.
_INK, _QUIET = "#010203", "#010204"
_SERIES = tuple(f"#0102{index:02x}" for index in range(0x10, 0x16))
_CSS = {_INK: "currentColor", _QUIET: "var(--quiet)"} | {
    color: f"var(--series-{index})" for index, color in enumerate(_SERIES)
}

_WIDTH, _BAR, _HEAD = 7.6, 0.27, 0.58
"""Inches: the figure's width, the height of one bar with its gap, a panel's title with its gap."""

_HEIGHT = 3.4
"""Inches: the height of a plot of curves."""

_STYLE = {
    "svg.fonttype": "none",  # text stays text: readable aloud, searchable, in the page's own font
    "svg.hashsalt": "diffoundry",  # the same data gives the same file
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _QUIET,
    "ytick.color": _INK,
}


def bars_svg(section: Bars) -> str:
    """Draw the plot as an <svg> element, transparent, in the colours of the CSS variables --series-0 to --series-5.

    Each panel has its own scale from zero. A whisker shows the spread, a label the value.
    """
    labels = list(dict.fromkeys(bar.label for panel in section.panels for bar in panel.bars))
    colors = {label: _SERIES[index % len(_SERIES)] for index, label in enumerate(labels)}
    heights = [_HEAD + _BAR * len(panel.bars) for panel in section.panels]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
        FigureCanvasSVG(figure)
        rows = figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for axes, panel in zip(rows, section.panels, strict=True):
            _draw_panel(axes, panel, [colors[bar.label] for bar in panel.bars], section.unit)
        return _svg(figure)


def curves_svg(section: Curves) -> str:
    """Draw the plot as `bars_svg` does: a logarithmic scale, a dashed line where a curve has a limit."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.set_yscale("log", nonpositive="mask")
        named = [curve for curve in section.curves if curve.label]
        for curve in section.curves:
            if not curve.label:
                _draw_curve(axes, curve, _QUIET, width=0.7, opacity=0.45)
        for index, curve in enumerate(named):
            _draw_curve(axes, curve, _SERIES[index % len(_SERIES)], width=1.8, opacity=1)
        axes.set_xlabel(section.x)
        axes.set_ylabel(section.y)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(which="both", color=_QUIET)
        axes.grid(visible=True, axis="y", color=_QUIET, alpha=0.25, linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(_QUIET)
        if named:
            figure.legend(loc="outside upper left", ncols=2, frameon=False)
        return _svg(figure)


def _draw_curve(axes: "mpl.axes.Axes", curve: Curve, color: str, *, width: float, opacity: float) -> None:
    steps = range(1, len(curve.values) + 1)
    (line,) = axes.plot(steps, curve.values, color=color, linewidth=width, alpha=opacity)
    line.set(marker="o", markersize=width * 1.6, label=curve.label or "_hidden")
    if curve.limit is not None:
        axes.axhline(curve.limit, color=color, linewidth=1.2, linestyle=(0, (5, 3)))


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _embed(buffer.getvalue())


def _draw_panel(axes: "mpl.axes.Axes", panel: Panel, colors: Sequence[str], unit: str) -> None:
    places = range(len(panel.bars))
    spread = [[bar.value - bar.low for bar in panel.bars], [bar.high - bar.value for bar in panel.bars]]
    whiskers = {"ecolor": _INK, "elinewidth": 1.2, "capsize": 2.5, "capthick": 1.2}
    axes.barh(places, [bar.value for bar in panel.bars], height=0.72, color=colors, xerr=spread, error_kw=whiskers)
    axes.set_yticks(places, [bar.label for bar in panel.bars])
    axes.invert_yaxis()
    axes.set_title(panel.title, loc="left", fontsize=10.5, fontweight="bold")
    reach = max(bar.high for bar in panel.bars)
    axes.set_xlim(0, reach * 1.22 or 1)
    for place, bar in zip(places, panel.bars, strict=True):
        axes.annotate(_value_text(bar, unit), (bar.high, place), xytext=(6, 0), textcoords="offset points", va="center")
    axes.tick_params(length=0)
    axes.set_xticks([])
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(_QUIET)


def _value_text(bar: Bar, unit: str) -> str:
    return f"{bar.value:.3g} {unit}" if bar.value < 100 else f"{bar.value:,.0f} {unit}"


def _embed(svg: str) -> str:
    """Extract the <svg> element, make it as wide as the page allows, and set CSS colours for the placeholders."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 aria-hidden="true"', element, count=1)
    for color, css in _CSS.items():
        element = element.replace(color, css)
    return element
