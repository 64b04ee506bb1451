"""The bundle's pipeline beside diffusers' trace: latents after every step, and the final picture."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from diffoundry.exporter.verify.gates import Gates
from diffoundry.exporter.verify.metrics import psnr
from diffoundry.exporter.verify.reference_run import Trace
from diffoundry.exporter.verify.report import Check, LoopResult, StepDistance, at_least, at_most, holds
from diffoundry.exporter.verify.request import Settings
from diffoundry.runtime.image import describe_image_fault
from diffoundry.runtime.pipelines.stable_diffusion import StableDiffusionPipeline

__all__ = ["follow", "judge_loop"]

FloatArray = NDArray[np.float32]


def follow(
    pipeline: StableDiffusionPipeline, trace: Trace, settings: Settings, tell: Callable[[int, int], None]
) -> tuple[LoopResult, FloatArray]:
    """Paint a trace's picture with the bundle.

    Args:
        pipeline: The bundle's.
        trace: What diffusers did.
        settings: Steps, guidance and size of the trace.
        tell: Called with (steps done, steps in all) after every step.

    Returns:
        The distances, and the bundle's picture: float32 (height, width, 3) in 0..1.

    Raises:
        EngineError: An engine failed.
    """
    run = pipeline.start(
        trace.prompt,
        seed=trace.seed,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        height=settings.height,
        width=settings.width,
        output_type="np",
    )
    ours: list[FloatArray] = []
    with np.errstate(all="ignore"):  # a broken bundle overflows: that is reported as a failed check
        for step in run:
            ours.append(step.latents)
            tell(step.index + 1, step.total)
        picture = np.asarray(run.finish().images[0])
    curve = tuple(_distances(ours, trace))
    result = LoopResult(
        prompt=trace.prompt,
        seed=trace.seed,
        steps=len(ours),
        reference_steps=len(trace.latents),
        curve=curve,
        worst=max(range(len(curve)), key=lambda i: _badness(curve[i].relative_max)),
        psnr=psnr(picture, trace.picture, peak=1.0) if picture.shape == trace.picture.shape else math.nan,
        fault=describe_image_fault(picture),
        reference_fault=describe_image_fault(trace.picture),
    )
    return result, picture


def judge_loop(result: LoopResult, gates: Gates) -> list[Check]:
    """The checks of one picture: number of steps, worst step, final picture, and faults that can be seen."""
    subject = f"{result.prompt}, seed {result.seed}"
    worst = result.curve[result.worst]
    steps = None
    if result.steps != result.reference_steps:
        steps = f"{result.steps}, expected {result.reference_steps}"
    place = f"after step {worst.index + 1} of {result.reference_steps}"
    return [
        holds("loop", subject, "number of steps", steps),
        at_most("loop", subject, "latents, max abs error / RMS", worst.relative_max, gates.latents, place),
        at_least("image", subject, "PSNR, dB", result.psnr, gates.image_psnr),
        holds("image", subject, "bundle's picture", result.fault, "no fault"),
        holds("image", subject, "diffusers' picture", result.reference_fault, "no fault"),
    ]


def _distances(ours: Sequence[FloatArray], trace: Trace) -> list[StepDistance]:
    """The curve, as far as both go."""
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
