"""Measures caches, guidance intervals and fewer steps against the exact loop, and draws decibels over work.

python benchmarks/bench_approximations.py BUNDLE [--steps 25] [--scheduler DDIM] [--guidance-scale 4] [--prompts 8]
    [--json FILE] [--svg FILE] [--grid FILE.png]

Every image of an approximation is generated right after one of the exact loop, so that both times are of the same
seconds. Rows are those of the denoiser, over all steps: guidance makes two of an image.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from lib.interleaved import machine
from PIL import Image

from diffoundry.exporter.tune.approximation import parse_approximation
from diffoundry.exporter.tune.measure import ApproximationReport, compare, generate_exact, sample
from diffoundry.exporter.verify.checks.nearest_image import gallery_of_images
from diffoundry.exporter.verify.image_size import settings_for
from diffoundry.exporter.verify.prompts import PROMPTS
from diffoundry.exporter.verify.request import Settings, VerifyRequest
from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.approximations.split_caches import check_split_cache
from diffoundry.runtime.pipelines.base import PipelineBase

METHODS = {
    "fewer steps": [f"steps={{{divisor}}}" for divisor in (1.5, 2, 2.5, 3, 4)],
    "fewer steps, DPM-Solver++": [f"steps={{{divisor}}},scheduler=dpmpp_2m" for divisor in (1, 1.5, 2, 3, 4)],
    "guidance interval": [f"guidance-interval={text}" for text in ("0:0.8", "0.1:0.9", "0.2:0.8", "0:0.6")],
    "cache guidance": [f"cache=guidance:{interval}" for interval in (2, 3, 4, 6)],
    "cache sea": [f"cache=sea:{threshold}" for threshold in (0.2, 0.4, 0.6, 1, 1.5)],
    "cache deep": [f"cache=deep:{interval}" for interval in (2, 3, 5)],
    "cache deep, linear": [f"cache=deep:{interval}:order=1" for interval in (2, 3, 5)],
    "cache first-block": [f"cache=first-block:{threshold}" for threshold in (0.1, 0.2, 0.4)],
    "cache taylor:0": [f"cache=taylor:0:interval={interval}" for interval in (2, 3, 4, 6, 8)],
    "cache taylor:1": [f"cache=taylor:1:interval={interval}" for interval in (2, 3, 4, 5, 6)],
    "cache taylor:1, guidance held": [
        f"cache=taylor:1:interval={interval}:guidance-order=0" for interval in (3, 4, 5, 6, 8)
    ],
}
"""Method to its settings; a number in braces divides the number of steps."""

SHOWN = ("steps={2}", "cache=taylor:1:interval=3", "cache=taylor:1:interval=6:guidance-order=0")
"""Settings of the table of images."""


def main() -> None:
    """Measure every setting, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target")
    parser.add_argument("--precision")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--scheduler", default="DDIM")
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--grid", type=Path)
    asked = parser.parse_args()
    pipeline = load(asked.bundle, target=asked.target, precision=asked.precision)
    pipeline.scheduler = asked.scheduler
    request = VerifyRequest(prompts=PROMPTS[: asked.prompts], steps=asked.steps, guidance_scale=asked.guidance_scale)
    settings = settings_for(pipeline, request)
    exact = generate_exact(pipeline, settings)
    gallery = gallery_of_images("the exact loop's images", [(one.prompt, one.image) for one in exact])
    measured: dict[str, list[ApproximationReport]] = {}
    print("| setting | dB | worst | SSIM | same | rows | faster |\n|---|---|---|---|---|---|---|")
    for method, texts in METHODS.items():
        for text in texts:
            if not pipeline_takes(pipeline, text):
                continue
            report = compare(pipeline, settings, parse_approximation(_steps(text, asked.steps)), exact, gallery)
            measured.setdefault(method, []).append(report)
            same = "–" if report.same_object is None else f"{report.same_object}/{report.images}"
            print(
                f"| `{report.text}` | {report.psnr:.1f} | {report.worst_psnr:.1f} | {report.ssim:.4f} | {same} | "
                f"{report.fewer_rows:.2f}x | {report.times_as_fast:.2f}x |",
                flush=True,
            )
    if asked.json:
        reports = {method: [asdict(one) for one in reports] for method, reports in measured.items()}
        asked.json.write_text(json.dumps({"machine": machine(), "steps": asked.steps, "reports": reports}, indent=1))
    if asked.svg:
        _draw(measured, asked.svg)
    if asked.grid:
        _draw_grid(pipeline, settings, asked.steps, asked.grid)


def pipeline_takes(pipeline: PipelineBase, text: str) -> bool:
    """Return False for caches that need another export, or another network."""
    cache = text.partition("cache=")[2].partition(",")[0] or None
    try:
        check_split_cache(cache, pipeline.session)
    except InputError:
        return False
    return True


def _steps(text: str, steps: int) -> str:
    """Replace a divisor in braces by the number of steps that it leaves."""
    if "{" not in text:
        return text
    before, _, rest = text.partition("{")
    divisor, _, after = rest.partition("}")
    return f"{before}{round(steps / float(divisor))}{after}"


def _draw(measured: dict[str, list[ApproximationReport]], path: Path) -> None:
    """Draw decibels over times as few rows, a line for each method."""
    plt.rcParams["svg.hashsalt"] = "diffoundry"  # the same file for the same numbers
    figure, axes = plt.subplots(figsize=(7.5, 4.5))
    for method, reports in measured.items():
        ordered = sorted(reports, key=lambda report: report.fewer_rows)
        plain = method.startswith("fewer steps")
        axes.plot(
            [report.fewer_rows for report in ordered], [report.psnr for report in ordered],
            marker="o", markersize=4, linestyle="--" if plain else "-", label=method,
            color="0.5" if method == "fewer steps" else None,
        )  # fmt: skip
    axes.set(xlabel="times as few rows of the denoiser", ylabel="PSNR to the exact loop, dB")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _draw_grid(pipeline: PipelineBase, settings: Settings, steps: int, path: Path) -> None:
    """Save the images of some settings below those of the exact loop."""
    rows = []
    for text in (None, *SHOWN):
        chosen = None if text is None else parse_approximation(_steps(text, steps))
        rows.append(
            np.concatenate([sample(pipeline, settings, chosen, one, 0).image for one in settings.prompts], axis=1)
        )
    Image.fromarray((255 * np.concatenate(rows)).round().astype(np.uint8)).save(path)


if __name__ == "__main__":
    main()
