"""Compares the bundle's pipeline with diffusers' trace: latents after every step, and the image or embeddings."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from diffoundry.exporter.verify.checks.gates import Gates, latents_limit
from diffoundry.exporter.verify.checks.metrics import psnr
from diffoundry.exporter.verify.checks.nearest_image import Gallery
from diffoundry.exporter.verify.checks.ssim import ssim
from diffoundry.exporter.verify.generate import generate
from diffoundry.exporter.verify.reference.pipeline_trace import Trace
from diffoundry.exporter.verify.report.report import Check, LoopResult, StepDistance, at_least, at_most, holds
from diffoundry.exporter.verify.request import Settings
from diffoundry.exporter.verify.run_result import is_image
from diffoundry.runtime.images.pixels import describe_image_fault
from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = ["ENOUGH", "follow", "judge_images", "judge_loop"]

ENOUGH = 8
"""Least number of images for judging a promised mean."""

FloatArray = NDArray[np.float32]


def follow(
    pipeline: PipelineBase,
    trace: Trace,
    gallery: Gallery | None,
    settings: Settings,
    on_step: Callable[[int, int], None],
) -> tuple[LoopResult, FloatArray]:
    """Generate a trace's image with the bundle.

    Args:
        pipeline: The bundle's pipeline.
        trace: Record of diffusers' run.
        gallery: Gallery that labels both images, or None.
        settings: Steps, guidance and size of the trace.
        on_step: Called with (steps done, steps in all) after every step.

    Returns:
        The distances, and the bundle's result: see `result_of`.

    Raises:
        EngineError: An engine failed.
    """
    ours, made = generate(pipeline, trace.prompt, trace.seed, settings, on_step)
    curve, images = tuple(_distances(ours, trace)), is_image(trace.result)
    same = images and made.shape == trace.result.shape
    result = LoopResult(
        prompt=trace.prompt,
        seed=trace.seed,
        steps=len(ours),
        reference_steps=len(trace.latents),
        curve=curve,
        worst=max(range(len(curve)), key=lambda i: _badness(curve[i].relative_max)),
        psnr=psnr(made, trace.result, peak=1.0) if same else math.nan,
        ssim=ssim(made, trace.result) if same else math.nan,
        shift=_shift(made, trace.result) if same else math.nan,
        shows=gallery.name(made) if gallery else None,
        reference_shows=gallery.name(trace.result) if gallery else None,
        fault=describe_image_fault(made) if images else None,
        reference_fault=describe_image_fault(trace.result) if images else None,
        embeddings=None if images else _error(made, trace.result),
    )
    return result, made


def judge_loop(result: LoopResult, gates: Gates) -> list[Check]:
    """Check one image: number of steps, worst step, final image, and visible faults."""
    subject = result.name
    limits = _limits(result, gates)
    ratios = [_badness(step.relative_max / limit) for step, limit in zip(result.curve, limits, strict=True)]
    worst = ratios.index(max(ratios))
    steps = None
    if result.steps != result.reference_steps:
        steps = f"{result.steps}, expected {result.reference_steps}"
    distance, place = result.curve[worst].relative_max, f"after step {worst + 1} of {result.reference_steps}"
    if result.rounding is not None:
        place += f"; PyTorch's own rounding makes {result.rounding[worst]:.2g}"
    return [
        holds("loop", subject, "number of steps", steps),
        at_most("loop", subject, "latents, max abs error / RMS", distance, limits[worst], place),
        *_judge_result(result, gates, limits[-1]),
    ]


def _limits(result: LoopResult, gates: Gates) -> list[float]:
    """Return the limit of the latents after each step."""
    if result.rounding is None:
        return [gates.latents] * len(result.curve)
    return [latents_limit(gates, rounding) for rounding in result.rounding]


def _judge_result(result: LoopResult, gates: Gates, latents: float) -> list[Check]:
    """Check the final image, or the embeddings of a prior, which are its latents on another scale."""
    subject = result.name
    if result.embeddings is not None:
        return [at_most("loop", subject, "embeddings, max abs error / RMS", result.embeddings, latents)]
    return [
        at_least("image", subject, "PSNR, dB", result.psnr, gates.image_psnr),
        at_least("image", subject, "SSIM", result.ssim, gates.ssim),
        at_most("image", subject, "mean shift", result.shift, gates.shift),
        holds("image", subject, "bundle's image", result.fault, "no NaN, not one colour"),
        holds("image", subject, "diffusers' image", result.reference_fault, "no NaN, not one colour"),
    ]


def judge_images(results: Sequence[LoopResult], gates: Gates) -> list[Check]:
    """Check all images together: the objects they show, and the PSNR that calibration promised.

    A promise is judged over 8 images or more.
    """
    subject = f"{len(results)} images"
    checks = []
    named = [result for result in results if result.reference_shows is not None]
    if named:
        others = [result for result in named if result.shows != result.reference_shows]
        detail = "; ".join(f"{one.name}: {one.shows}, expected {one.reference_shows}" for one in others)
        percent = 100 * (1 - len(others) / len(named))
        checks.append(at_least("image", subject, "same object, %", percent, gates.agreement, detail))
    shown = all(result.embeddings is None for result in results)
    if gates.mean_psnr is not None and len(results) >= ENOUGH and shown:
        mean = math.fsum(result.psnr for result in results) / len(results)
        checks.append(at_least("image", subject, "mean PSNR, dB", mean, gates.mean_psnr, "as calibration promised"))
    return checks


def _shift(image: FloatArray, reference: FloatArray) -> float:
    """Largest difference of the mean of a colour."""
    with np.errstate(all="ignore"):
        return float(np.abs((image.astype(np.float64) - reference).mean(axis=(0, 1))).max())


def _error(ours: FloatArray, reference: FloatArray) -> float:
    """Return the largest error over the reference's RMS; NaN for another shape."""
    if ours.shape != reference.shape:
        return math.nan
    with np.errstate(all="ignore"):
        error = np.abs(ours.astype(np.float64) - reference).max()
        return float(error / np.sqrt(np.mean(np.square(reference, dtype=np.float64))))


def _distances(ours: Sequence[FloatArray], trace: Trace) -> list[StepDistance]:
    """Distances after each step, as far as both sides go."""
    curve = []
    pairs = zip(ours, trace.latents, trace.timesteps, strict=False)
    for index, (mine, reference, timestep) in enumerate(pairs):
        with np.errstate(all="ignore"):
            error = mine.astype(np.float64) - reference if mine.shape == reference.shape else np.float64(np.nan)
            scale = float(np.sqrt(np.mean(np.square(reference, dtype=np.float64))))
            max_abs, rms = float(np.abs(error).max()), float(np.sqrt(np.mean(np.square(error))))
        curve.append(
            StepDistance(
                index=index,
                timestep=timestep,
                max_abs=max_abs,
                scale=scale,
                relative_max=max_abs / scale,
                relative_rms=rms / scale,
            )
        )
    return curve


def _badness(value: float) -> float:
    return math.inf if math.isnan(value) else value
