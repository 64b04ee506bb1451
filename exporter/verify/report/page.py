"""Formats the report of `verify` as sections of an HTML report, and its numbers as text."""

import math
from collections.abc import Sequence

from diffoundry.exporter.verify.checks.gates import gates_for
from diffoundry.exporter.verify.progress import ImagePair
from diffoundry.exporter.verify.report.image_rows import image_section
from diffoundry.exporter.verify.report.report import Check, LoopResult, StepDistance, VariantReport, VerifyReport
from diffoundry.runtime.report import Cell, Curve, Curves, Facts, Gate, Section, Table

__all__ = ["first_fault", "measured_text", "report_sections", "variant_row", "verdict", "worst_checks"]


def verdict(report: VerifyReport) -> str:
    """Sum the report up in one sentence."""
    checks = report.all_checks
    failed = sum(not check.passed for check in checks)
    if failed:
        wrong = ", ".join(variant.name for variant in report.variants if not variant.passed)
        where = f" ({wrong})" if wrong else ""
        return (
            f"FAILED: {failed} of {len(checks)} checks{where}; {report.bundle} is not the model {report.checkpoint}. "
            f"First fault: {first_fault(report)}"
        )
    return f"passed: all {len(checks)} checks; {report.bundle} is the model {report.checkpoint}"


def first_fault(report: VerifyReport) -> str:
    """Name the first failed check, which is nearest to the cause, and the components that are right.

    Checks come in the order of the computation: files and configs, components, latents, images.
    """
    variant = next((one for one in report.variants if not one.passed), None)
    checks = [*report.checks, *(variant.checks if variant else ())]
    check = next(check for check in checks if not check.passed)
    if isinstance(check.measured, str):
        fault = f"{check.subject}: {check.measured}"
    else:
        fault = f"{check.subject}: {check.measure} {measured_text(check)}, limit {check.gate}"
    parts = [one for one in checks if one.part == "component"]
    wrong = {one.subject.split()[0] for one in parts if not one.passed}
    right = [name for name in dict.fromkeys(one.subject.split()[0] for one in parts) if name not in wrong]
    if not right:
        return fault
    named = f"{', '.join(right[:-1])} and {right[-1]} are" if len(right) > 1 else f"{right[0]} is"
    return f"{fault}; {named} right"


def measured_text(check: Check) -> str:
    """Format a measurement for a table; a cosine by its distance from 1."""
    if isinstance(check.measured, str):
        return check.measured
    text = f"1 - {1 - check.measured:.2g}" if check.measure == "cosine" else f"{check.measured:.4g}"
    return f"{text} ({check.detail})" if check.detail else text


def variant_row(variant: VariantReport) -> list[str]:
    """Summarize a variant: name, worst and mean PSNR, worst SSIM, images that show the same, worst latents."""
    loops = variant.loops
    if not loops:
        return [variant.name, *["–"] * 5]
    largest = f"{max(_number(loop.curve[loop.worst].relative_max) for loop in loops):.2g}"
    if any(loop.embeddings is not None for loop in loops):
        return [variant.name, *["–"] * 4, largest]
    named = [loop for loop in loops if loop.reference_shows is not None]
    same = sum(loop.shows == loop.reference_shows for loop in named)
    return [
        variant.name,
        f"{_smallest(loops, 'psnr'):.1f}",
        f"{sum(loop.psnr for loop in loops) / len(loops):.1f}",
        f"{_smallest(loops, 'ssim'):.5f}",
        f"{same} of {len(named)}" if named else "–",
        largest,
    ]


def worst_checks(checks: Sequence[Check]) -> list[Check]:
    """Select every failed check and, for each measure over many images, the passed one nearest to its gate."""
    groups: dict[tuple[str, ...], list[Check]] = {}
    for check in checks:
        alone = check.subject if check.part not in ("loop", "image") else ""
        groups.setdefault((check.part, check.measure, alone), []).append(check)
    kept: list[Check] = []
    for group in groups.values():
        failed = [check for check in group if not check.passed]
        kept += failed or [max(group, key=_nearness)]
    parts = list(dict.fromkeys(check.part for check in checks))
    return sorted(kept, key=lambda check: parts.index(check.part))


def report_sections(report: VerifyReport, pairs: Sequence[ImagePair]) -> list[Section]:
    """Build the overview, the settings, the latents after every step, then each variant's images and checks.

    Args:
        report: The report.
        pairs: Image pairs reported through `VerifyProgress.images`, in that order.
    """
    sections: list[Section] = [_overview(report), _facts(report), *_latents(report)]
    for variant in report.variants:
        mine = [pair for pair in pairs if pair.variant == variant.name]
        shown: list[Section] = []
        if mine:
            shown = [image_section(variant, mine), _every_step(variant), _every_image(variant)]
        text = "Against PyTorch in fp32. A component's numbers are those of its worst inputs."
        checks = _checks(f"{variant.name}: checks", variant.checks, text)
        sections += [*shown, checks] if variant.passed else [checks, *shown]
    shared = _checks("Files, configs, token ids", report.checks, "Shared by all engines.")
    if all(check.passed for check in report.checks):
        return [*sections, shared]
    return [shared, *sections]  # a fault here is the cause of those below


def _overview(report: VerifyReport) -> Table:
    columns = [
        "engines",
        "worst PSNR, dB",
        "mean PSNR, dB",
        "worst SSIM",
        "same object",
        "largest latent error",
        "checks",
    ]
    rows: list[list[Cell]] = []
    for variant in report.variants:
        passed = sum(check.passed for check in variant.checks)
        rows.append([*variant_row(variant), Gate(passed=variant.passed, text=f"{passed} of {len(variant.checks)}")])
    rows += [[one.name, *["–"] * 5, Gate(passed=None, text=one.reason)] for one in report.absent]
    text = "Latent error: the largest after any step, over the RMS of diffusers' latents after it."
    if report.gallery:
        text += f" Same object: the nearest of {report.gallery} is the same for both images."
    return Table(title="Engines", columns=columns, rows=rows, text=text)


def _facts(report: VerifyReport) -> Facts:
    settings = report.settings
    images = len(settings.prompts) * len(settings.seeds)
    facts = {
        "bundle": report.bundle,
        "checkpoint": report.checkpoint,
        "images": f"{images} for each set of engines, {settings.width} x {settings.height} pixels",
        "prompts": ", ".join(settings.prompts),
        "seeds": ", ".join(map(str, settings.seeds)),
        "steps": str(settings.steps),
        "guidance scale": f"{settings.guidance_scale:g}",
        "diffoundry": report.diffoundry,
        "seconds": f"{report.seconds:.1f}",
    }
    return Facts(title="What was compared", facts=facts, text="\n\n".join(report.notes))


def _latents(report: VerifyReport) -> list[Curves]:
    """Draw one line per variant: the worst of its images at every step."""
    curves = [
        Curve(
            label=variant.name,
            values=[max(_number(step.relative_max) for step in steps) for steps in _by_step(variant.loops)],
            limit=gates_for(variant.precision).latents,
        )
        for variant in report.variants
        if variant.loops
    ]
    text = "The worst image at every step; the dashed line is the gate."
    return [_curves("Latents after every step", curves, text)] if curves else []


def _every_step(variant: VariantReport) -> Curves:
    """Draw one line per image, the worst of them labelled."""
    worst = max(variant.loops, key=lambda loop: _number(loop.curve[loop.worst].relative_max))
    others = [Curve(label="", values=_values(loop)) for loop in variant.loops if loop is not worst]
    step = worst.curve[worst.worst]
    text = (
        f"Every line is an image. The worst is {worst.name} after step {step.index + 1}, timestep {step.timestep:g}: "
        f"largest error {step.max_abs:.3g}, latents' RMS {step.scale:.3g}."
    )
    named = Curve(label=worst.name, values=_values(worst), limit=gates_for(variant.precision).latents)
    return _curves(f"{variant.name}: latents", [*others, named], text)


def _curves(title: str, curves: Sequence[Curve], text: str) -> Curves:
    return Curves(title=title, curves=curves, x="step", y="largest error / RMS", text=text)


def _every_image(variant: VariantReport) -> Table:
    columns = ["image", "PSNR, dB", "SSIM", "mean shift", "latents", "shows", "diffusers' shows"]
    order = sorted(variant.loops, key=lambda loop: (not math.isnan(loop.psnr), loop.psnr))
    rows = [
        [
            loop.name,
            f"{loop.psnr:.2f}",
            f"{loop.ssim:.6f}",
            f"{loop.shift:.2g}",
            f"{loop.curve[loop.worst].relative_max:.2g}",
            loop.shows or "–",
            loop.reference_shows or "–",
        ]
        for loop in order
    ]
    return Table(title=f"{variant.name}: every image", columns=columns, rows=rows)


def _checks(title: str, checks: Sequence[Check], text: str) -> Table:
    rows = [
        (check.part, check.subject, check.measure, measured_text(check), Gate(passed=check.passed, text=check.gate))
        for check in sorted(worst_checks(checks), key=lambda check: check.passed)
    ]
    many = " Of checks that every image passed, the one nearest to its gate." if len(rows) < len(checks) else ""
    return Table(title=title, columns=["part", "item", "measure", "value", "limit"], rows=rows, text=text + many)


def _by_step(loops: Sequence[LoopResult]) -> list[list[StepDistance]]:
    return [list(steps) for steps in zip(*(loop.curve for loop in loops), strict=False)]


def _values(loop: LoopResult) -> list[float]:
    return [step.relative_max for step in loop.curve]


def _smallest(loops: Sequence[LoopResult], field: str) -> float:
    """Smallest value of a field; NaN is worse than any number."""
    values = [float(getattr(loop, field)) for loop in loops]
    return math.nan if any(map(math.isnan, values)) else min(values)


def _number(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _nearness(check: Check) -> float:
    """Distance of a number from its limit, on the scale of the limit; a check without number is infinitely far."""
    if isinstance(check.measured, str) or check.limit is None:
        return -math.inf
    return -abs(check.measured - check.limit)
