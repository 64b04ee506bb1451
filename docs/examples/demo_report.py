"""Measures and verifies a bundle and puts both, with the pictures painted before, on one page.

python docs/examples/demo_report.py BUNDLE FOLDER
"""

import json
import sys
from pathlib import Path

from PIL import Image
from rich.console import Console

from diffoundry.exporter.cli.verify_tables import report_tables
from diffoundry.exporter.pytorch.baseline import torch_contenders
from diffoundry.exporter.verify import PicturePair, VerifyReport, VerifyRequest, Watch, report_to_json, verify
from diffoundry.exporter.verify.page import report_sections, verdict
from diffoundry.exporter.verify.prompts import PROMPTS
from diffoundry.runtime.bench import BenchRequest, compare
from diffoundry.runtime.bench.bundle_contender import BundleContender
from diffoundry.runtime.bench.measure import Comparison
from diffoundry.runtime.cli.bench import print_report
from diffoundry.runtime.cli.bench_page import bench_sections
from diffoundry.runtime.cli.report import Picture, Pictures, write_report
from diffoundry.runtime.records import to_json

console = Console(highlight=False)


class _Pairs(Watch):
    """Keeps the pictures that `verify` paints."""

    def __init__(self) -> None:
        self.kept: list[PicturePair] = []

    def pictures(self, pair: PicturePair) -> None:
        self.kept.append(pair)


def main(bundle: str, folder: str) -> None:
    """Write report.html, verify.json and bench.json into FOLDER; exit code 1 when a gate fails."""
    comparison = _measure(Path(bundle))
    pairs = _Pairs()
    report = _verify(Path(bundle), pairs)
    results = Path(folder)
    (results / "bench.json").write_text(json.dumps(to_json(comparison.report), indent=2), encoding="utf-8")
    (results / "verify.json").write_text(json.dumps(report_to_json(report), indent=2), encoding="utf-8")
    sections = [_grid(results), *report_sections(report, pairs.kept), *bench_sections(comparison)]
    write_report(
        results / "report.html", f"{Path(bundle).name}: pictures, parity, speed", sections, text=verdict(report)
    )
    console.print(f"{results / 'report.html'}: {verdict(report)}")
    sys.exit(0 if report.passed else 1)


def _measure(bundle: Path) -> Comparison:
    request = BenchRequest(steps=20)
    rivals = torch_contenders(bundle, request, ["torch-fp32"], threads=None)
    with console.status("measuring, in turns with PyTorch"):
        comparison = compare(BundleContender(bundle, request), rivals, request)
    print_report(comparison.report)
    return comparison


def _verify(bundle: Path, watch: Watch) -> VerifyReport:
    with console.status("verifying against PyTorch"):
        report = verify(bundle, None, VerifyRequest(prompts=PROMPTS[:4]), watch)
    console.print(*report_tables(report))
    return report


def _grid(folder: Path) -> Pictures:
    paths = sorted(path for path in folder.glob("*.png") if path.name != "grid.png")
    pictures = [Picture(image=Image.open(path), caption=path.stem.replace("-", " ")) for path in paths]
    text = "Painted by a process that never imported PyTorch; every file holds its settings."
    return Pictures(title="Painted without PyTorch", pictures=pictures, columns=8, text=text)


if __name__ == "__main__":
    main(*sys.argv[1:])
