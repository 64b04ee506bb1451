"""The same noise on every engine of a bundle that can run here: how far their pictures are from each other."""

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
from diffoundry.exporter.pytorch.reference import reference_pipeline
from diffoundry.exporter.verify.across_report import (
    ACROSS_SCHEMA_VERSION,
    REFERENCE,
    AcrossReport,
    Painter,
    PairDistance,
)
from diffoundry.exporter.verify.builds import Build, find_builds, promise
from diffoundry.exporter.verify.gates import coarsest, pair_psnr, promised_gates
from diffoundry.exporter.verify.metrics import psnr
from diffoundry.exporter.verify.painting import paint
from diffoundry.exporter.verify.reference_run import paint_reference
from diffoundry.exporter.verify.report import Check, at_least, holds
from diffoundry.exporter.verify.request import Settings, VerifyRequest
from diffoundry.exporter.verify.sizes import settings_for
from diffoundry.exporter.verify.source import find_checkpoint
from diffoundry.exporter.verify.ssim import ssim
from diffoundry.exporter.verify.watch import Watch
from diffoundry.runtime.bundle import Bundle
from diffoundry.runtime.errors import CheckpointError, EngineError, InputError
from diffoundry.runtime.image import describe_image_fault
from diffoundry.runtime.pipelines import open_pipeline

__all__ = ["verify_across"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Painted:
    """What one painter made: its pictures in the order of prompts and seeds, or the reason why there are none."""

    painter: Painter
    pictures: Sequence[FloatArray]
    fault: str | None = None


def verify_across(
    bundle: str | os.PathLike[str],
    checkpoint: Checkpoint | None = None,
    request: VerifyRequest | None = None,
    watch: Watch | None = None,
) -> AcrossReport:
    """Paint the same pictures with every engine of a bundle that can run here, and compare each pair.

    diffusers in fp32 is one more painter when the checkpoint is at hand. The engines are opened one after another.

    Args:
        bundle: The bundle.
        checkpoint: What it was made from, or None for the one that its recipe names, if that can be opened.
        request: What to paint, and with which engines.
        watch: Told of progress, and shown the pictures of each painter.

    Raises:
        BundleError: The folder is no bundle, or a file of it was changed after the export.
        InputError: There is nothing to compare: one engine, and no checkpoint.
        EngineError: No engine of the bundle can run here. One that fails while it runs is a failed check.
    """
    started = time.perf_counter()
    request, watch = request or VerifyRequest(), watch or Watch()
    opened = Bundle(bundle)
    builds, absent = find_builds(opened, request)
    notes: list[str] = []
    if checkpoint is None:
        try:
            checkpoint = find_checkpoint(opened)
        except (CheckpointError, InputError) as error:
            notes.append(f"without diffusers: {error}")
    if len(builds) + (checkpoint is not None) < 2:
        raise InputError(
            f"bundle {opened.root}: got one set of engines that can run here, {builds[0].name}, and nothing to compare "
            f"it with; add another with 'diffoundry build', or name the checkpoint with --against"
        )
    settings = settings_for(open_pipeline(builds[0].components, safety_checker=None), request)
    painted = []
    if checkpoint is not None:
        painted.append(_paint_with_diffusers(checkpoint, settings, watch))
    painted += [_paint(build, settings, watch) for build in builds]
    for one in painted:
        watch.painted(one.painter.name, one.pictures)
    complete = [one for one in painted if one.fault is None]
    distances = [_distance(a, b) for a, b in combinations(complete, 2)]
    checks = (*_judge_painters(painted, settings), *_judge_pairs(complete, distances))
    return AcrossReport(
        schema_version=ACROSS_SCHEMA_VERSION,
        diffoundry=diffoundry.__version__,
        bundle=os.fspath(bundle),
        checkpoint=checkpoint.name if checkpoint else None,
        settings=settings,
        notes=tuple(notes),
        painters=tuple(one.painter for one in painted),
        distances=tuple(distances),
        checks=checks,
        absent=tuple(absent),
        seconds=time.perf_counter() - started,
        passed=all(check.passed for check in checks),
    )


def _paint_with_diffusers(checkpoint: Checkpoint, settings: Settings, watch: Watch) -> _Painted:
    watch.stage("PyTorch: loading", 0, 1)
    pipeline = reference_pipeline(checkpoint, torch.float32)
    pictures = [
        paint_reference(
            pipeline, prompt, seed, settings, partial(watch.stage, f"PyTorch: {prompt}, seed {seed}")
        ).picture
        for prompt, seed in product(settings.prompts, settings.seeds)
    ]
    return _Painted(painter=Painter(name=REFERENCE, image_psnr=None), pictures=pictures)


def _paint(build: Build, settings: Settings, watch: Watch) -> _Painted:
    precision = coarsest(precision for _, precision in build.engines().values())
    gates = promised_gates(precision, promise(build.components.bundle, precision))
    painter = Painter(name=build.name, image_psnr=gates.image_psnr)
    pictures: list[FloatArray] = []
    try:
        pipeline = open_pipeline(build.components, safety_checker=None)
        for prompt, seed in product(settings.prompts, settings.seeds):
            tell = partial(watch.stage, f"{build.name}: {prompt}, seed {seed}")
            pictures.append(paint(pipeline, prompt, seed, settings, tell)[1])
    except EngineError as error:
        return _Painted(painter=painter, pictures=(), fault=str(error))
    finally:
        build.components.close()
    return _Painted(painter=painter, pictures=pictures)


def _distance(a: _Painted, b: _Painted) -> PairDistance:
    pairs = list(zip(a.pictures, b.pictures, strict=True))
    with np.errstate(all="ignore"):
        values = [psnr(x, y, peak=1.0) for x, y in pairs]
        errors = [float(np.abs(x.astype(np.float64) - y).max()) for x, y in pairs]
    return PairDistance(
        a=a.painter.name,
        b=b.painter.name,
        psnr=float(np.min(values)),  # NaN when one is
        mean_psnr=float(np.mean(values)),
        ssim=float(np.min([ssim(x, y) for x, y in pairs])),
        max_abs=float(np.max(errors)),
    )


def _judge_painters(painted: Sequence[_Painted], settings: Settings) -> Iterator[Check]:
    names = [f"{prompt}, seed {seed}" for prompt, seed in product(settings.prompts, settings.seeds)]
    for one in painted:
        faults = [(name, describe_image_fault(picture)) for name, picture in zip(names, one.pictures, strict=False)]
        words = "; ".join(f"{name}: {fault}" for name, fault in faults if fault)
        yield holds("across", one.painter.name, "pictures", one.fault or words or None, "no fault")


def _judge_pairs(painted: Sequence[_Painted], distances: Sequence[PairDistance]) -> Iterator[Check]:
    gates = {one.painter.name: one.painter.image_psnr for one in painted}
    for pair in distances:
        limit = pair_psnr(*(gate for gate in (gates[pair.a], gates[pair.b]) if gate is not None))
        yield at_least("across", f"{pair.a} | {pair.b}", "PSNR, dB", pair.psnr, limit)
