"""The answer of `verify` as sections of an HTML report, and its numbers as text."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffoundry.exporter.verify.report import Check, LoopResult, VerifyReport
from diffoundry.exporter.verify.watch import PicturePair
from diffoundry.runtime.cli.report import Facts, Gate, Picture, Pictures, Section, Table

__all__ = ["measured_text", "report_sections", "verdict"]


def verdict(report: VerifyReport) -> str:
    """The answer in one sentence."""
    failed = sum(not check.passed for check in report.checks)
    total = len(report.checks)
    if failed:
        return f"FAILED: {failed} of {total} checks; {report.bundle} is not the model {report.checkpoint}"
    return f"passed: all {total} checks; {report.bundle} is the model {report.checkpoint}"


def measured_text(check: Check) -> str:
    """What was measured, for a table; a cosine with all the digits that matter."""
    if isinstance(check.measured, str):
        return check.measured
    text = f"{check.measured:.12f}" if check.measure == "cosine" else f"{check.measured:.3g}"
    return f"{text} ({check.detail})" if check.detail else text


def report_sections(report: VerifyReport, pairs: Sequence[PicturePair]) -> list[Section]:
    """The pictures side by side, the facts, every check, and the latents of every step.

    Args:
        report: The answer.
        pairs: What `Watch.pictures` was shown, in that order.
    """
    sections: list[Section] = [_pictures(report, pairs), _facts(report), _checks(report)]
    return sections + [_curve(loop) for loop in report.loops]


def _pictures(report: VerifyReport, pairs: Sequence[PicturePair]) -> Pictures:
    pictures = []
    for pair, loop in zip(pairs, report.loops, strict=True):
        name = f"{pair.prompt}, seed {pair.seed}"
        pictures.append(Picture(image=_picture(pair.ours), caption=name, note=f"bundle, {loop.psnr:.1f} dB"))
        pictures.append(Picture(image=_picture(pair.reference), caption=name, note="diffusers, fp32"))
    text = "Each prompt painted by the bundle and by diffusers in fp32, from the same noise."
    return Pictures(title="Pictures", pictures=pictures, columns=4, text=text)


def _picture(pixels: NDArray[np.float32]) -> Image.Image:
    """NaN is shown as black."""
    return Image.fromarray(np.round(np.nan_to_num(pixels) * 255).astype(np.uint8))


def _facts(report: VerifyReport) -> Facts:
    settings = report.settings
    facts = {
        "bundle": report.bundle,
        "checkpoint": report.checkpoint,
        "engines": ", ".join(f"{name} {engine}" for name, engine in report.engines.items()),
        "pictures": f"{len(report.loops)} of {settings.width} x {settings.height} pixels",
        "steps": str(settings.steps),
        "guidance scale": f"{settings.guidance_scale:g}",
        "seconds": f"{report.seconds:.1f}",
    }
    return Facts(title="What was compared", facts=facts, text="\n\n".join(report.notes))


def _checks(report: VerifyReport) -> Table:
    rows = [
        (check.part, check.subject, check.measure, measured_text(check), Gate(passed=check.passed, text=check.gate))
        for check in report.checks
    ]
    text = "Every check against PyTorch in fp32. A component's numbers are those of its worst inputs."
    return Table(title="Checks", columns=["part", "what", "measure", "measured", "gate"], rows=rows, text=text)


def _curve(loop: LoopResult) -> Table:
    rows = [
        (
            str(step.index + 1),
            f"{step.timestep:g}",
            f"{step.max_abs:.3g}",
            f"{step.relative_max:.3g}",
            f"{step.relative_rms:.3g}",
        )
        for step in loop.curve
    ]
    return Table(
        title=f"Latents after every step: {loop.prompt}, seed {loop.seed}",
        columns=["step", "timestep", "max abs error", "max abs error / RMS", "relative RMS error"],
        rows=rows,
        text=f"The worst is step {loop.worst + 1}.",
    )
