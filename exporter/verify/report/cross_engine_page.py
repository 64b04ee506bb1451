"""Formats the report of `compare_engines` as sections of an HTML report, and its matrices as text."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from diffoundry.exporter.verify.report.cross_engine_report import CrossEngineReport, PairDistance
from diffoundry.exporter.verify.report.image_rows import to_image
from diffoundry.exporter.verify.report.page import measured_text
from diffoundry.runtime.report import Facts, Gate, Images, ReportImage, Section, Table

__all__ = ["IN_SHORT", "MATRICES", "cross_engine_sections", "cross_engine_verdict", "matrix"]

_SHOWN = 8

MATRICES: Mapping[str, Callable[[PairDistance], str]] = {
    "PSNR of the worst image, dB": lambda pair: f"{pair.psnr:.1f}",
    "Largest difference, of 1": lambda pair: f"{pair.max_abs:.2g}",
    "Mean PSNR, dB": lambda pair: f"{pair.mean_psnr:.1f}",
    "SSIM of the worst image": lambda pair: f"{pair.ssim:.5f}",
}
"""Heading of each matrix, and the text of a cell."""

IN_SHORT = tuple(MATRICES)[:2]
"""Matrices printed in a terminal."""


def cross_engine_verdict(report: CrossEngineReport) -> str:
    """Sum the report up in one sentence."""
    failed = sum(not check.passed for check in report.checks)
    count = len(report.participants)
    if failed:
        first = next(check for check in report.checks if not check.passed)
        return (
            f"FAILED: {failed} of {len(report.checks)} checks; {count} participants do not agree on {report.bundle}. "
            f"First fault: {first.subject}: {first.measure} {measured_text(first)}, limit {first.gate}"
        )
    worst = min((pair.psnr for pair in report.distances), default=math.nan)
    return f"passed: {count} participants agree on {report.bundle}, the farthest images are {worst:.1f} dB apart"


def matrix(report: CrossEngineReport, title: str) -> list[list[str]]:
    """Format one of `MATRICES`: one row and column per participant, the name first, a dash for no distance."""
    text = MATRICES[title]
    names = [participant.name for participant in report.participants]
    found = {(a, b): report.between(a, b) for a, b in product(names, names) if a != b}
    return [[name, *(text(pair) if (pair := found.get((name, other))) else "–" for other in names)] for name in names]


def cross_engine_sections(
    report: CrossEngineReport, generated: Mapping[str, Sequence[NDArray[np.float32]]]
) -> list[Section]:
    """Build the matrices, the images with a column for each participant, the settings, and every check.

    Args:
        report: The report.
        generated: Images reported through `VerifyProgress.generated`: name to images.
    """
    names = [participant.name for participant in report.participants]
    sections: list[Section] = [
        Table(title=title, columns=["", *names], rows=matrix(report, title)) for title in MATRICES
    ]
    rows = [
        (check.subject, check.measure, measured_text(check), Gate(passed=check.passed, text=check.gate))
        for check in sorted(report.checks, key=lambda check: check.passed)
    ]
    absent = [(one.name, "", "not run", Gate(passed=None, text=one.reason)) for one in report.absent]
    checks = Table(
        title="Checks",
        columns=["item", "measure", "value", "limit"],
        rows=[*rows, *absent],
        text="Two participants may differ by what the gates of both allow together.",
    )
    return [*sections, _images(report, generated), _facts(report), checks]


def _images(report: CrossEngineReport, generated: Mapping[str, Sequence[NDArray[np.float32]]]) -> Images:
    settings = report.settings
    runs = list(product(settings.prompts, settings.seeds))[:_SHOWN]
    complete = [
        name for participant in report.participants if len(generated.get(name := participant.name, ())) >= len(runs)
    ]
    images = [
        ReportImage(image=to_image(generated[name][index]), caption=name, note=f"{prompt}, seed {seed}")
        for index, (prompt, seed) in enumerate(runs)
        for name in complete
    ]
    text = "Every row is a prompt and seed, every column a participant."
    return Images(title="Images", images=images, columns=len(complete), text=text)


def _facts(report: CrossEngineReport) -> Facts:
    settings = report.settings
    facts = {
        "bundle": report.bundle,
        "checkpoint": report.checkpoint or "–",
        "prompts": ", ".join(settings.prompts),
        "seeds": ", ".join(map(str, settings.seeds)),
        "steps": str(settings.steps),
        "guidance scale": f"{settings.guidance_scale:g}",
        "size": f"{settings.width} x {settings.height} pixels",
        "seconds": f"{report.seconds:.1f}",
    }
    return Facts(title="What was generated", facts=facts, text="\n\n".join(report.notes))
