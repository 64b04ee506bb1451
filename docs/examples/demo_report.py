"""Measures and verifies a bundle and puts both, with the images generated before, on one page.

python docs/examples/demo_report.py BUNDLE FOLDER
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from rich.console import Console

from diffoundry.runtime.bench import BenchRequest, compare
from diffoundry.runtime.bench.bundle_candidate import BundleCandidate
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.cli.bench import print_report
from diffoundry.runtime.cli.bench_page import bench_sections
from diffoundry.runtime.cli.bench_view import duration, load_warning, remarks
from diffoundry.runtime.cli.console import out, size_text
from diffoundry.runtime.report import Images, ReportImage, Tile, Tiles, write_report

if TYPE_CHECKING:
    from diffoundry.exporter.verify import ImagePair, VerifyReport
    from diffoundry.runtime.bench.measure import Comparison
    from diffoundry.runtime.bench.report import Measured

console = Console(highlight=False)


def main(bundle: str, folder: str) -> None:
    """Write report.html, verify.json and bench.json into FOLDER; exit code 1 when a gate fails."""
    comparison = _measure(Path(bundle))  # before PyTorch is imported, which `verify` needs in this process
    report, pairs = _verify(Path(bundle))

    from diffoundry.exporter.verify import report_to_json
    from diffoundry.exporter.verify.report.page import report_sections, verdict

    results = Path(folder)
    (results / "bench.json").write_text(json.dumps(to_json(comparison.report), indent=2), encoding="utf-8")
    (results / "verify.json").write_text(json.dumps(report_to_json(report), indent=2), encoding="utf-8")
    sections = [
        headline(comparison, report),
        _grid(results),
        *bench_sections(comparison),
        *report_sections(report, pairs),
    ]
    write_report(
        results / "report.html",
        f"{Path(bundle).name}: images, parity, speed",
        sections,
        text=verdict(report),
        passed=report.passed,
    )
    console.print(f"{results / 'report.html'}: {verdict(report)}")
    sys.exit(0 if report.passed else 1)


def _measure(bundle: Path) -> "Comparison":
    """Measure as `diffoundry bench` does: ours in a process without PyTorch, PyTorch in a process of its own."""
    from diffoundry.exporter.reference.baseline import torch_candidates

    request = BenchRequest(steps=20)
    baselines = torch_candidates(bundle, request, ["torch-fp32"], threads=None)
    loaded = sorted({"torch", "diffusers", "transformers"} & set(sys.modules))
    if loaded:
        sys.exit(f"this process loaded {', '.join(loaded)}: its memory would count as ours")
    with console.status("measuring, in turns with PyTorch"):
        comparison = compare(BundleCandidate(bundle, request), baselines, request)
    print_report(comparison.report)
    return comparison


def _verify(bundle: Path) -> "tuple[VerifyReport, list[ImagePair]]":
    """Verify the bundle; returns the report and the image pairs that it generated."""
    from diffoundry.exporter.cli.verify_tables import report_tables
    from diffoundry.exporter.verify import VerifyProgress, VerifyRequest, verify
    from diffoundry.exporter.verify.prompts import PROMPTS

    kept: list[ImagePair] = []

    class Pairs(VerifyProgress):
        def images(self, pair: "ImagePair") -> None:
            kept.append(pair)

    with console.status("verifying against PyTorch"):
        report = verify(bundle, None, VerifyRequest(prompts=PROMPTS[:4]), Pairs())
    out.print(*report_tables(report))
    return report, kept


def headline(comparison: "Comparison", report: "VerifyReport") -> Tiles:
    """Make the tiles on top of the page: distance to diffusers, then speed, memory and load beside PyTorch's."""
    ours, theirs = (candidate.measured for candidate in comparison.report.candidates[:2])
    assert ours is not None, "a bundle that cannot be measured is an error before"
    tiles = [
        Tile(
            value=f"{min(loop.psnr for variant in report.variants for loop in variant.loops):.0f} dB",
            label="PSNR to diffusers, worst image",
            note=f"{sum(check.passed for check in report.all_checks)} of {len(report.all_checks)} checks passed",
        ),
        *(_beside(ours, theirs) if theirs is not None else []),
    ]
    text = "\n\n".join(filter(None, [load_warning(comparison.report), *remarks(comparison.report)]))
    return Tiles(title="Beside PyTorch, on this machine", tiles=tiles, text=text)


def _beside(ours: "Measured", theirs: "Measured") -> list[Tile]:
    """Make the tiles that compare with PyTorch; ratios above 1 are in our favour."""
    tiles = [
        Tile(
            value=f"{theirs.image.median / ours.image.median:.1f} x",
            label="Speed of an image, warm",
            note=f"{duration(ours.image.median)}, PyTorch {duration(theirs.image.median)}",
        ),
        Tile(
            value=f"{theirs.load.total / ours.load.total:.0f} x",
            label="Speed of loading",
            note=f"{duration(ours.load.total)}, PyTorch {duration(theirs.load.total)}",
        ),
    ]
    if ours.peak_rss and theirs.peak_rss:
        memory = Tile(
            value=size_text(ours.peak_rss),
            label="Peak memory",
            note=f"PyTorch {size_text(theirs.peak_rss)}, {theirs.peak_rss / ours.peak_rss:.1f} x as much",
        )
        tiles.insert(1, memory)
    return tiles


def _grid(folder: Path) -> Images:
    paths = sorted(path for path in folder.glob("*.png") if path.name != "grid.png")
    images = [ReportImage(image=Image.open(path), caption=path.stem.replace("-", " ")) for path in paths]
    text = "Generated by a process that never imported PyTorch; every file holds its settings."
    return Images(title="Generated without PyTorch", images=images, text=text)


if __name__ == "__main__":
    main(*sys.argv[1:])
