"""Generates one image, or the embeddings of a prior, with a bundle and records the latents after every step."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from diffoundry.exporter.verify.request import Settings
from diffoundry.exporter.verify.run_result import result_of
from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = ["generate"]

FloatArray = NDArray[np.float32]


def generate(
    pipeline: PipelineBase, prompt: str, seed: int, settings: Settings, on_step: Callable[[int, int], None]
) -> tuple[list[FloatArray], FloatArray]:
    """Generate a prompt from a seed.

    Args:
        pipeline: The bundle's pipeline.
        prompt: The prompt.
        seed: Seed of torch's CPU generator.
        settings: Steps, guidance and size.
        on_step: Called with (steps done, steps in all) after every step.

    Returns:
        The latents after every step, float32 (1, ...), in the shape of diffusers' class; of a pipeline without steps
        its result. And the result: see `result_of`.

    Raises:
        EngineError: An engine failed.
    """
    run = pipeline.start(
        prompt if pipeline.text_encoders else None,
        seed=seed,
        **{"output_type": "np", **settings.image_arguments()},
    )
    latents: list[FloatArray] = []
    with np.errstate(all="ignore"):  # a broken bundle overflows: a failed check reports it
        for step in run:
            latents.append(pipeline.pack(step.latents))
            on_step(step.index + 1, step.total)
        result = result_of(run.finish())
        return latents or [result[None]], result
