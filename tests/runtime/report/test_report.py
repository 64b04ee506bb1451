"""The HTML page: self-contained, well-formed, escaped, both colour schemes, and errors before any work."""

import base64
import importlib.util
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from diffoundry.runtime.errors import InputError, MissingExtraError
from diffoundry.runtime.report import (
    Bar,
    Bars,
    Curve,
    Curves,
    Facts,
    Gate,
    Images,
    Panel,
    ReportImage,
    Table,
    Text,
    Tile,
    Tiles,
    require_report,
    write_report,
)

_VOID = {"meta", "img", "br", "link", "use", "path", "rect"}


class _Page(HTMLParser):
    """Elements with their attributes; every tag must be closed in its order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], {}
        self.feed(text)
        assert self.open == [], self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.words.setdefault(self.open[-1], []).append(data.strip())

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def _image(size=(8, 8)):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels)


def _bars(values=(1.0, 2.0)):
    bars = [Bar(label=f"who {i} & <co>", value=v, low=v * 0.9, high=v * 1.2) for i, v in enumerate(values)]
    return Bars(
        title="Latency", panels=[Panel(title="one step", bars=bars), Panel(title="one", bars=bars[:1])], unit="ms"
    )


_SECTIONS = [
    Text(title="Words", text="First.\n\nSecond <b>."),
    Images(title="Images", images=[ReportImage(image=_image(), caption='a "red" <apple>', note="98.2 dB")]),
    Table(
        title="Parity",
        columns=["component", "max abs", "gate"],
        rows=[
            ["unet", "2e-06", Gate(passed=True, text="at most 1e-4")],
            ["vae", "–", Gate(passed=False)],
            ["text", "3", Gate(passed=None)],
        ],
    ),
    _bars(),
    Facts(title="Machine", facts={"processor": "EPYC <2>"}),
]


def _write(tmp_path, sections=_SECTIONS, title="emoji & co", **values):
    write_report(tmp_path / "report.html", title, sections, **values)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    return text, _Page(text)


def test_page_needs_no_other_file_and_no_network(tmp_path):
    text, page = _write(tmp_path)
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
    assert not page.of("script")
    assert not re.search(r"url\((?!#)", text)
    assert not re.search(r"@import|@font-face", text)
    assert "default-src 'none'" in next(a["content"] for a in page.of("meta") if "http-equiv" in a)
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_images_come_back_pixel_for_pixel_with_their_caption(tmp_path):
    _, page = _write(tmp_path)
    (shown,) = page.of("img")
    assert shown["alt"] == 'a "red" <apple>'
    assert int(shown["width"]) == 128
    stored = Image.open(io.BytesIO(base64.b64decode(shown["src"].partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(stored), np.asarray(_image()))


def test_tiles_show_figure_label_and_note(tmp_path):
    tiles = [Tile(value="2.5 x", label="Speed <warm>", note="0.2 s"), Tile(value="134 dB", label="PSNR")]
    text, page = _write(tmp_path, [Tiles(title="Headline", tiles=tiles)])
    assert page.words["dd"] == ["2.5 x", "134 dB"]
    assert page.words["small"] == ["0.2 s"]
    assert "Speed &lt;warm&gt;" in text


def test_large_images_keep_their_size_and_columns_are_kept(tmp_path):
    images = [ReportImage(image=_image((200, 40)), caption=str(i)) for i in range(4)]
    text, page = _write(tmp_path, [Images(title="p", images=images, columns=2)])
    assert {a["width"] for a in page.of("img")} == {"200"}
    assert "repeat(2, minmax(6.5rem, max-content))" in text


def test_all_content_is_escaped(tmp_path):
    text, page = _write(tmp_path, title="<script>alert(1)</script>")
    assert not page.of("script")
    assert "<b>" not in text
    assert "<co>" not in text
    assert "EPYC &lt;2&gt;" in text
    assert "who 0 &amp; &lt;co&gt;" in text


def test_gates_use_words_not_colour_alone(tmp_path):
    _, page = _write(tmp_path)
    assert page.words["span"].count("✓ pass") == 1
    assert page.words["span"].count("✗ fail") == 1
    assert page.words["span"].count("not checked") == 1
    assert "at most 1e-4" in page.words["td"]


def test_columns_of_numbers_are_aligned_dashes_included(tmp_path):
    _, page = _write(tmp_path)
    heads = [attributes.get("class") for attributes in page.of("th") if attributes["scope"] == "col"]
    assert heads == [None, "number", None]
    assert [attributes.get("class") for attributes in page.of("td")] == ["number", None] * 3


def test_every_section_is_reachable_by_heading_and_link(tmp_path):
    _, page = _write(tmp_path)
    assert page.words["h1"] == ["emoji & co"]
    assert page.words["h2"] == [section.title for section in _SECTIONS]
    targets = {attributes.get("id") for attributes in page.of("section")}
    assert {attributes["href"].removeprefix("#") for attributes in page.of("a")} == targets
    assert page.of("html")[0]["lang"] == "en"


def test_plot_follows_the_colour_scheme_and_has_a_text(tmp_path):
    text, page = _write(tmp_path)
    svg = text[text.index("<svg") : text.index("</svg>")]
    assert "#0102" not in svg
    assert "var(--series-0)" in svg
    assert "var(--series-1)" in svg
    assert "currentColor" in svg
    assert "prefers-color-scheme: dark" in text
    assert "2 ms" in svg
    assert "one step, who 1 & <co>: 2 ms, 1.8 to 2.4" in page.words["li"]


def test_bars_are_as_long_as_their_values_on_a_scale_from_zero():
    from diffoundry.runtime.report.plots import bars_svg

    svg = bars_svg(_bars((1.0, 3.0)))
    edges = [
        [float(x) for x in re.findall(r"[ML] ([\d.]+) ", re.search(rf'd="([^"]*)"[^>]*fill: {re.escape(c)}', svg)[1])]
        for c in ("var(--series-0)", "var(--series-1)")
    ]
    lengths = [max(xs) - min(xs) for xs in edges]
    assert lengths[1] / lengths[0] == pytest.approx(3, rel=1e-3)
    assert min(edges[0]) == min(edges[1])


def test_same_data_gives_the_same_page(tmp_path):
    assert _write(tmp_path)[0] == _write(tmp_path)[0]


def test_a_row_with_too_few_cells_is_refused_and_nothing_is_written(tmp_path):
    table = Table(title="Parity", columns=["a", "b"], rows=[["1", "2"], ["1"]])
    with pytest.raises(InputError, match=r"table 'Parity', row 1: got 1 cells, expected 2, one for each of a, b"):
        write_report(tmp_path / "report.html", "t", [table])
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_path_is_reported(tmp_path):
    with pytest.raises(InputError, match=r"report .*report\.html: cannot be written \(No such file"):
        write_report(tmp_path / "no" / "report.html", "t", [])


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    _write(tmp_path)
    before = (tmp_path / "report.html").read_bytes()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match="No space left"):
        write_report(tmp_path / "report.html", "other", [])
    assert (tmp_path / "report.html").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_extra_is_reported_before_any_work(monkeypatch, tmp_path, library):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else find(name))
    sentence = rf"an HTML report needs .* '{library}'.*Install it with: pip install .*\[report\]"
    with pytest.raises(MissingExtraError, match=sentence):
        require_report()
    with pytest.raises(MissingExtraError, match=sentence):
        write_report(tmp_path / "report.html", "t", [])


def test_asking_for_the_extra_loads_nothing():
    code = (
        "import sys; from diffoundry.runtime.report import require_report; require_report(); "
        "print({'jinja2', 'matplotlib'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_sections_alone_need_no_library():
    code = "import sys, diffoundry.runtime.report; print({'jinja2', 'matplotlib'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def _curves(curves, **values):
    return Curves(title="Latents", curves=curves, x="step", y="error", **values)


def test_curves_stand_on_a_logarithmic_scale_with_their_limits(tmp_path):
    curves = [
        Curve(label="", values=[1e-5, 2e-5, 1e-4]),
        Curve(label="fp16 & <co>", values=[1e-4, 1e-3, 1e-2], limit=0.1),
        Curve(label="fp32", values=[1e-7, 1e-6, 1e-5]),
    ]
    text, page = _write(tmp_path, [_curves(curves, text="Under the dashed line.")])
    svg = text[text.index("<svg") : text.index("</svg>")]
    assert "#0102" not in svg
    for color in ("--series-0", "--series-1", "--quiet", "currentColor"):
        assert color in svg
    assert "<co>" not in svg
    assert page.words["li"] == ["fp16 & <co>, at most 0.1: 0.0001, 0.001, 0.01", "fp32: 1e-07, 1e-06, 1e-05"]
    lines = [_points(svg, f"var(--series-{i})") for i in (0, 1)]
    for (x0, y0), (x1, y1), (x2, y2) in lines:
        assert x1 - x0 == pytest.approx(x2 - x1, rel=1e-3)
        assert y0 - y1 == pytest.approx(y1 - y2, rel=1e-3), "a factor of ten is the same everywhere"
        assert y0 > y2, "upwards"
    decade = lines[0][0][1] - lines[0][1][1]
    assert lines[1][0][1] - lines[0][0][1] == pytest.approx(3 * decade, rel=1e-3)


def test_values_without_a_logarithm_leave_a_gap(tmp_path):
    curves = [Curve(label="one", values=[1e-3, 0.0, float("nan"), float("inf"), 1e-2])]
    text, page = _write(tmp_path, [_curves(curves)])
    assert page.words["li"] == ["one: 0.001, 0, nan, inf, 0.01"]
    assert "nan" not in text[text.index("<svg") : text.index("</svg>")]


def test_curves_without_names_have_no_legend(tmp_path):
    text, page = _write(tmp_path, [_curves([Curve(label="", values=[1e-3, 1e-2])])])
    assert "legend" not in text[text.index("<svg") : text.index("</svg>")]
    assert "li" not in page.words


def _points(svg, color):
    """The corners of the solid line of this colour, in the plot's own units, y downwards."""
    for path, style in re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', svg):
        if f"stroke: {color}" in style and "dasharray" not in style and "L" in path:
            return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)][:3]
    raise AssertionError(color)
