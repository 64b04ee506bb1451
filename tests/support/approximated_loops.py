"""Loops with fewer calls of the denoiser: ours, and loops made of diffusers' networks and schedulers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["PROMPT", "SETTINGS", "STEPS", "expected_loop", "near", "trajectory"]

STEPS = 12
SETTINGS = {"num_inference_steps": STEPS, "guidance_scale": 4.0, "seed": 3, "output_type": "latent"}
PROMPT = "a red apple"


def trajectory(pipe: Any, **arguments: Any) -> tuple[list[np.ndarray], list[int]]:
    """Latents after every step, and the rows of every call of the denoiser."""
    rows = []

    def note(name, feeds, _outputs, _seconds):
        if name == pipe.denoiser.component:
            rows.append(len(next(iter(feeds.values()))))

    pipe.session.on_call = note
    try:
        return [step.latents for step in pipe.start(PROMPT, **{**SETTINGS, **arguments})], rows
    finally:
        pipe.session.on_call = None


def expected_loop(theirs: Any, guide: Callable[..., torch.Tensor]) -> list[np.ndarray]:
    """Latents after every step of diffusers' UNet and scheduler.

    Args:
        theirs: diffusers' pipeline.
        guide: (step, outputs of the UNet for the prompt and for the empty one, as functions) -> the prediction.
    """
    text, empty = theirs.encode_prompt(PROMPT, "cpu", 1, do_classifier_free_guidance=True)
    scheduler = theirs.scheduler
    scheduler.set_timesteps(STEPS)
    latents = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3)) * scheduler.init_noise_sigma
    made = []
    for index, time in enumerate(scheduler.timesteps):
        sample = scheduler.scale_model_input(latents, time)

        def predict(states, sample=sample, time=time):
            return theirs.unet(sample, time, encoder_hidden_states=states).sample

        with torch.no_grad():
            output = guide(index, lambda predict=predict: predict(text), lambda predict=predict: predict(empty))
        latents = scheduler.step(output, time, latents).prev_sample
        made.append(latents.numpy())
    return made


def near(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    """Assert that the latents of every step are the same but for rounding."""
    for got, want in zip(ours, theirs, strict=True):
        assert np.sqrt(np.square(got - want).mean()) <= 1e-4 * np.sqrt(np.square(want).mean())
