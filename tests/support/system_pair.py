"""Follows diffusers' pipeline of a system and ours, step by step, over all schedulers of all stages."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffoundry.exporter.reference.calls import call_pipeline

__all__ = ["compare_system", "open_theirs"]

TOLERANCE = 1e-4
"""Of the RMS of diffusers' latents after a step."""


def open_theirs(folder: Path, name: str) -> Any:
    """Open diffusers' pipeline class `name` of a checkpoint."""
    import diffusers

    pipeline = getattr(diffusers, name).from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def compare_system(
    ours: Any,
    theirs: Any,
    *,
    prompt: Any = None,
    seed: int = 0,
    watch: bool = True,
    global_noise: bool = False,
    ours_only: dict[str, Any] | None = None,
    theirs_only: dict[str, Any] | None = None,
    tolerance: float = TOLERANCE,
    output_type: str = "np",
    **arguments: Any,
) -> np.ndarray:
    """Check the latents after every step of every stage, and the images to 60 dB; return ours, (B, H, W, 3).

    Args:
        ours: Our pipeline.
        theirs: diffusers' pipeline in fp32.
        prompt: One or several; None for none.
        seed: Of torch's CPU generator.
        watch: True follows all of diffusers' schedulers, False its `callback_on_step_end`.
        global_noise: True seeds torch's global generator for diffusers, as its pipelines need that pass no generator on
            to the scheduler.
        ours_only: Arguments for ours.
        theirs_only: Arguments for diffusers'.
        tolerance: Of the RMS.
        output_type: "latent" for pipelines that make no image.
        arguments: For both.
    """
    expected: list[np.ndarray] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = call_pipeline(
            theirs,
            prompt,
            lambda _index, _timestep, latents: expected.append(latents.detach().float().numpy().copy()),
            watch=watch,
            generator=None if global_noise else torch.Generator("cpu").manual_seed(seed),
            output_type=output_type,
            **arguments,
            **(theirs_only or {}),
        )
    run = ours.start(prompt, seed=seed, output_type=output_type, **arguments, **(ours_only or {}))
    steps = list(run)
    assert len(steps) == len(expected) == run.total, (len(steps), len(expected), run.total)
    assert [step.index for step in steps] == list(range(run.total))
    for step, latents in zip(steps, expected, strict=True):
        given = ours.pack(step.latents)
        assert given.shape == latents.shape, (step.stage, step.index, given.shape, latents.shape)
        error = np.abs(given - latents).max() / np.sqrt(np.mean(np.square(latents, dtype=np.float64)))
        assert error < tolerance, (step.stage, step.index, error)
    images = np.asarray(run.finish().images)
    layers = isinstance(output.images, list) and np.ndim(output.images[0]) == 4  # of images in layers, in several lists
    their_images = np.concatenate(output.images) if layers else np.asarray(output.images)
    assert images.shape == their_images.shape
    assert np.isfinite(images).all()
    assert -10 * np.log10(np.mean((images - their_images) ** 2) + 1e-12) > 60
    return images
