"""Checks that a bundle is still the same model: components, the loop after every step, and images, against PyTorch."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import diffoundry
from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.verify.checkpoint_source import check_family, find_checkpoint, identity_notes
from diffoundry.exporter.verify.checks.components import compare_component
from diffoundry.exporter.verify.checks.configs import check_files
from diffoundry.exporter.verify.checks.gates import Gates, coarsest, gates_for, may_be_rounding, promised_gates
from diffoundry.exporter.verify.checks.loop import ENOUGH, follow, judge_images, judge_loop
from diffoundry.exporter.verify.checks.partition import check_partition
from diffoundry.exporter.verify.checks.portable import check_portable
from diffoundry.exporter.verify.checks.remade import RemadeEngines, remake_engines
from diffoundry.exporter.verify.checks.safety import check_safety
from diffoundry.exporter.verify.image_size import settings_for
from diffoundry.exporter.verify.progress import ImagePair, VerifyProgress
from diffoundry.exporter.verify.reference.component_cases import ComponentCase
from diffoundry.exporter.verify.reference.rounding import RoundingYardstick
from diffoundry.exporter.verify.reference.torch_reference import Reference, ask_pytorch
from diffoundry.exporter.verify.report.report import (
    SCHEMA_VERSION,
    Check,
    LoopResult,
    OutputResult,
    VariantReport,
    VerifyReport,
    holds,
)
from diffoundry.exporter.verify.request import Settings, VerifyRequest
from diffoundry.exporter.verify.run_result import is_image
from diffoundry.exporter.verify.variants import OpenVariant, calibrated_psnr, find_variants, held_variants
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.errors import EngineError
from diffoundry.runtime.pipelines import open_pipeline

__all__ = ["verify"]


def verify(
    bundle: str | os.PathLike[str],
    checkpoint: Checkpoint | None = None,
    request: VerifyRequest | None = None,
    progress: VerifyProgress | None = None,
) -> VerifyReport:
    """Compare a bundle with its checkpoint in fp32 PyTorch on the CPU.

    PyTorch runs first and is freed before the engines are opened. One set of engines is closed before the next is
    opened. Memory peaks at the largest of them.

    Args:
        bundle: The bundle, or an Optimum ONNX folder.
        checkpoint: Checkpoint to compare with, or None for the one that the bundle's recipe names.
        request: Images to generate and engines to use.
        progress: Receives progress and images.

    Raises:
        BundleError: The folder is no bundle, or a file of it was changed after the export.
        CheckpointError: The checkpoint cannot be read.
        InputError: A folder without a recipe and no checkpoint, or a checkpoint of another pipeline family.
        EngineError: No engine of the bundle can run here. An engine that fails while it runs is a failed check.
    """
    started = time.perf_counter()
    request, progress = request or VerifyRequest(), progress or VerifyProgress()
    opened = Bundle(bundle)
    variants, absent = find_variants(opened, request)
    checkpoint = checkpoint or find_checkpoint(opened)
    check_family(opened, checkpoint)
    progress.update("reading the bundle", 0, 1)
    files = check_files(opened)
    pipeline = open_pipeline(variants[0].components, safety_checker=None)
    settings = settings_for(pipeline, request)
    reference = ask_pytorch(checkpoint, pipeline, settings, progress)
    progress.update("making the engines again", 0, 1)
    remade = {" ".join(one): remake_engines(opened, *one) for one in held_variants(opened, request)}
    yardstick = RoundingYardstick(checkpoint, settings, progress)
    reports = tuple(
        _verify_variant(variant, reference, yardstick, remade.get(variant.name, RemadeEngines()), settings, progress)
        for variant in variants
    )
    checks = (
        files,
        *reference.checks,
        *check_portable(opened, reference.cases, request.options),
        *check_partition(opened, reference.cases, request.options),
        *(check for variant in absent if variant.name in remade for check in remade[variant.name].checks),
    )
    return VerifyReport(
        schema_version=SCHEMA_VERSION,
        diffoundry=diffoundry.__version__,
        bundle=os.fspath(bundle),
        checkpoint=checkpoint.name,
        settings=settings,
        gallery=reference.gallery.source if reference.gallery else None,
        notes=(
            *identity_notes(opened, checkpoint),
            *_gallery_notes(reference),
            *(one.note for one in remade.values() if one.note is not None),
            *_promise_notes(opened, reports, len(reference.traces)),
        ),
        checks=checks,
        variants=reports,
        absent=tuple(absent),
        seconds=time.perf_counter() - started,
        passed=all(check.passed for check in checks) and all(report.passed for report in reports),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Findings:
    """Results of a variant so far. An engine that fails ends the variant; earlier results are kept."""

    checks: list[Check] = field(default_factory=list)
    outputs: list[OutputResult] = field(default_factory=list)
    loops: list[LoopResult] = field(default_factory=list)


def _verify_variant(
    variant: OpenVariant,
    reference: Reference,
    yardstick: RoundingYardstick,
    remade: RemadeEngines,
    settings: Settings,
    progress: VerifyProgress,
) -> VariantReport:
    started = time.perf_counter()
    engines = variant.engines()
    precision = coarsest(precision for _, precision in engines.values())
    gates = promised_gates(precision, calibrated_psnr(variant.components.bundle, precision))
    findings = _Findings()
    try:
        _compare_components(variant, reference.cases, engines, progress, findings)
        findings.checks.extend(check_safety(variant.components, reference.safety))
        _compare_loops(variant, reference, yardstick, gates, settings, progress, findings)
    except EngineError as error:
        findings.checks.append(holds("engine", variant.name, "runs", str(error), "runs"))
    finally:
        variant.components.close()
    findings.checks.extend(remade.checks)
    return VariantReport(
        name=variant.name,
        precision=precision,
        engines={name: " ".join(engine) for name, engine in engines.items()},
        checks=tuple(findings.checks),
        outputs=tuple(findings.outputs),
        loops=tuple(findings.loops),
        seconds=time.perf_counter() - started,
        passed=all(check.passed for check in findings.checks),
    )


def _compare_components(
    variant: OpenVariant,
    cases: Sequence[ComponentCase],
    engines: Mapping[str, tuple[str, str]],
    progress: VerifyProgress,
    findings: _Findings,
) -> None:
    for index, (name, (_, precision)) in enumerate(engines.items()):
        progress.update(f"{variant.name}: components", index, len(engines))
        mine = [case for case in cases if case.component == name]
        found, judged = compare_component(variant.components, name, mine, gates_for(precision))
        findings.outputs.extend(found)
        findings.checks.extend(judged)


def _compare_loops(
    variant: OpenVariant,
    reference: Reference,
    yardstick: RoundingYardstick,
    gates: Gates,
    settings: Settings,
    progress: VerifyProgress,
    findings: _Findings,
) -> None:
    sound = all(check.passed for check in findings.checks)
    pipeline = open_pipeline(variant.components, safety_checker=None)
    for trace in reference.traces:
        on_step = partial(progress.update, f"{variant.name}: {trace.name}")
        result, made = follow(pipeline, trace, reference.gallery, settings, on_step)
        if is_image(made) and is_image(trace.result):
            progress.images(
                ImagePair(variant=variant.name, prompt=trace.prompt, seed=trace.seed, ours=made, reference=trace.result)
            )
        if sound and may_be_rounding(max(result.curve[result.worst].relative_max, result.embeddings or 0.0), gates):
            variant.components.close()  # PyTorch needs the memory
            result = replace(result, rounding=yardstick.measure(trace))
        findings.loops.append(result)
        findings.checks.extend(judge_loop(result, gates))
    findings.checks.extend(judge_images(findings.loops, gates))


def _gallery_notes(reference: Reference) -> Iterator[str]:
    """Yield notes about the checkpoint's own failures: diffusers' images that do not show the prompt's object."""
    if reference.gallery is None:
        return
    known = [trace for trace in reference.traces if trace.prompt in reference.gallery.labels]
    named = [(trace, reference.gallery.name(trace.result)) for trace in known]
    others = [f"{trace.name} ({shown})" for trace, shown in named if shown != trace.prompt]
    if others:
        yield (
            f"diffusers' own images show something else for {', '.join(others)}: with so few steps or this "
            f"guidance, the object in an image means little"
        )


def _promise_notes(bundle: Bundle, reports: Sequence[VariantReport], images: int) -> Iterator[str]:
    if images >= ENOUGH:
        return
    for report in reports:
        promised = calibrated_psnr(bundle, report.precision)
        if promised is not None:
            yield (
                f"{report.name}: calibration promised a mean of {promised:g} dB, which is judged over {ENOUGH} or more "
                f"images; --full generates 32"
            )
