"""Compares the images of all engines of a bundle that can run here, from the same noise."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product

import numpy as np
import torch
from numpy.typing import NDArray

import diffoundry
from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.exporter.verify.checkpoint_source import check_family, find_checkpoint
from diffoundry.exporter.verify.checks.gates import coarsest, pair_psnr, promised_gates
from diffoundry.exporter.verify.checks.metrics import psnr
from diffoundry.exporter.verify.checks.ssim import ssim
from diffoundry.exporter.verify.generate import generate
from diffoundry.exporter.verify.image_size import settings_for
from diffoundry.exporter.verify.progress import VerifyProgress
from diffoundry.exporter.verify.reference.pipeline_trace import generate_reference
from diffoundry.exporter.verify.report.cross_engine_report import (
    CROSS_ENGINE_SCHEMA_VERSION,
    REFERENCE,
    CrossEngineReport,
    PairDistance,
    Participant,
)
from diffoundry.exporter.verify.report.report import Check, at_least, holds
from diffoundry.exporter.verify.request import Settings, VerifyRequest
from diffoundry.exporter.verify.variants import OpenVariant, calibrated_psnr, find_variants
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.errors import CheckpointError, EngineError, InputError
from diffoundry.runtime.images.pixels import describe_image_fault
from diffoundry.runtime.pipelines import open_pipeline

__all__ = ["compare_engines"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Generated:
    """Images of one participant in the order of prompts and seeds, or the reason why there are none."""

    participant: Participant
    images: Sequence[FloatArray]
    fault: str | None = None


def compare_engines(
    bundle: str | os.PathLike[str],
    checkpoint: Checkpoint | None = None,
    request: VerifyRequest | None = None,
    progress: VerifyProgress | None = None,
) -> CrossEngineReport:
    """Generate the same images with every engine of a bundle that can run here, and compare each pair.

    diffusers in fp32 takes part when the checkpoint is available. The engines are opened one after another.

    Args:
        bundle: The bundle.
        checkpoint: Checkpoint of the bundle, or None for the one that its recipe names, if that can be opened.
        request: Images to generate and engines to use.
        progress: Receives the progress, and the images of each participant.

    Raises:
        BundleError: The folder is no bundle, or a file of it was changed after the export.
        InputError: There is nothing to compare: one engine, and no checkpoint; or the checkpoint is of another
            pipeline family.
        EngineError: No engine of the bundle can run here. An engine that fails while it runs is a failed check.
    """
    started = time.perf_counter()
    request, progress = request or VerifyRequest(), progress or VerifyProgress()
    opened = Bundle(bundle)
    variants, absent = find_variants(opened, request)
    notes: list[str] = []
    if checkpoint is None:
        try:
            checkpoint = find_checkpoint(opened)
        except (CheckpointError, InputError) as error:
            notes.append(f"without diffusers: {error}")
    if checkpoint is not None:
        check_family(opened, checkpoint)
    if len(variants) + (checkpoint is not None) < 2:
        raise InputError(
            f"bundle {opened.root}: got one set of engines that can run here, {variants[0].name}, and nothing to "
            f"compare it with; add another with 'diffoundry build', or name the checkpoint with --against"
        )
    pipeline = open_pipeline(variants[0].components, safety_checker=None)
    if not pipeline.makes_images:
        raise InputError(
            f"bundle {opened.root}: got a {opened.pipeline_class}, which makes embeddings and no image, expected a "
            f"pipeline that makes images; compare it with its checkpoint by 'diffoundry verify'"
        )
    settings = settings_for(pipeline, request)
    generated = []
    if checkpoint is not None:
        generated.append(_generate_with_diffusers(checkpoint, settings, progress))
    generated += [_generate(variant, settings, progress) for variant in variants]
    for one in generated:
        progress.generated(one.participant.name, one.images)
    complete = [one for one in generated if one.fault is None]
    distances = [_distance(a, b) for a, b in combinations(complete, 2)]
    checks = (*_judge_participants(generated, settings), *_judge_pairs(complete, distances))
    return CrossEngineReport(
        schema_version=CROSS_ENGINE_SCHEMA_VERSION,
        diffoundry=diffoundry.__version__,
        bundle=os.fspath(bundle),
        checkpoint=checkpoint.name if checkpoint else None,
        settings=settings,
        notes=tuple(notes),
        participants=tuple(one.participant for one in generated),
        distances=tuple(distances),
        checks=checks,
        absent=tuple(absent),
        seconds=time.perf_counter() - started,
        passed=all(check.passed for check in checks),
    )


def _generate_with_diffusers(checkpoint: Checkpoint, settings: Settings, progress: VerifyProgress) -> _Generated:
    progress.update("PyTorch: loading", 0, 1)
    pipeline = reference_pipeline(checkpoint, torch.float32)
    images = [
        generate_reference(
            pipeline, prompt, seed, settings, partial(progress.update, f"PyTorch: {prompt}, seed {seed}")
        ).result
        for prompt, seed in product(settings.prompts, settings.seeds)
    ]
    return _Generated(participant=Participant(name=REFERENCE, image_psnr=None), images=images)


def _generate(variant: OpenVariant, settings: Settings, progress: VerifyProgress) -> _Generated:
    precision = coarsest(precision for _, precision in variant.engines().values())
    gates = promised_gates(precision, calibrated_psnr(variant.components.bundle, precision))
    participant = Participant(name=variant.name, image_psnr=gates.image_psnr)
    images: list[FloatArray] = []
    try:
        pipeline = open_pipeline(variant.components, safety_checker=None)
        for prompt, seed in product(settings.prompts, settings.seeds):
            on_step = partial(progress.update, f"{variant.name}: {prompt}, seed {seed}")
            images.append(generate(pipeline, prompt, seed, settings, on_step)[1])
    except EngineError as error:
        return _Generated(participant=participant, images=(), fault=str(error))
    finally:
        variant.components.close()
    return _Generated(participant=participant, images=images)


def _distance(a: _Generated, b: _Generated) -> PairDistance:
    pairs = list(zip(a.images, b.images, strict=True))
    with np.errstate(all="ignore"):
        values = [psnr(x, y, peak=1.0) for x, y in pairs]
        errors = [float(np.abs(x.astype(np.float64) - y).max()) for x, y in pairs]
    return PairDistance(
        a=a.participant.name,
        b=b.participant.name,
        psnr=float(np.min(values)),  # NaN when one is
        mean_psnr=float(np.mean(values)),
        ssim=float(np.min([ssim(x, y) for x, y in pairs])),
        max_abs=float(np.max(errors)),
    )


def _judge_participants(generated: Sequence[_Generated], settings: Settings) -> Iterator[Check]:
    names = [f"{prompt}, seed {seed}" for prompt, seed in product(settings.prompts, settings.seeds)]
    for one in generated:
        faults = [(name, describe_image_fault(image)) for name, image in zip(names, one.images, strict=False)]
        words = "; ".join(f"{name}: {fault}" for name, fault in faults if fault)
        yield holds("across", one.participant.name, "images", one.fault or words or None, "no NaN, not one colour")


def _judge_pairs(generated: Sequence[_Generated], distances: Sequence[PairDistance]) -> Iterator[Check]:
    gates = {one.participant.name: one.participant.image_psnr for one in generated}
    for pair in distances:
        limit = pair_psnr(*(gate for gate in (gates[pair.a], gates[pair.b]) if gate is not None))
        yield at_least("across", f"{pair.a} | {pair.b}", "PSNR, dB", pair.psnr, limit)
