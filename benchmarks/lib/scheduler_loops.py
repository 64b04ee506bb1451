"""Sampling loops of every scheduler class, written once for diffusers' and ours, for the benchmark.

The model is left out: its output is the same array at every call. Each loop returns its number of steps.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["STEPS", "Inputs", "loop_of", "plan"]

STEPS = 20
SHAPE = (1, 4, 64, 64)
CLASSES, TOKENS = 2887, 1024
"""Sizes of VQ-Diffusion's published models: 32 x 32 pixels of a VQ-VAE with 2886 entries, and the mask."""

PLANS: Mapping[str, Mapping[str, Any]] = {
    "ConsistencyDecoderScheduler": {"num_inference_steps": 2},
    "HeliosDMDScheduler": {"num_inference_steps": STEPS, "stage_index": 0},
    "HeliosScheduler": {"num_inference_steps": STEPS, "stage_index": 0},
    "RePaintScheduler": {"num_inference_steps": STEPS, "jump_length": 5, "jump_n_sample": 2},
    "SCMScheduler": {"num_inference_steps": STEPS, "intermediate_timesteps": None},
}
"""Arguments of `set_timesteps`, where the number of steps is not enough."""

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "DPMSolverMultistepScheduler": {"use_karras_sigmas": True},
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
    "VQDiffusionScheduler": {"num_vec_classes": CLASSES},
}
"""Options of the constructor, where the defaults are unusual."""


class Inputs:
    """The arrays that a loop of one class starts from, as NumPy or torch arrays over the same memory."""

    def __init__(self, name: str, convert: Callable[[np.ndarray], Any]) -> None:
        rng = np.random.default_rng(0)
        sample, output, noise, image = (rng.standard_normal(SHAPE, dtype=np.float32) for _ in range(4))
        if name == "VQDiffusionScheduler":
            sample = np.full((1, TOKENS), CLASSES - 1)
            logits = rng.standard_normal((1, CLASSES - 1, TOKENS), dtype=np.float32)
            output = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            noise = rng.random((1, CLASSES, TOKENS), dtype=np.float32)
        elif name == "PiflowScheduler":
            output = np.concatenate([output] * 10, axis=-1)  # the outputs of a grid of ten, side by side
        elif name.startswith("Helios"):
            sample, output, noise = sample[:, :, None], output[:, :, None], noise[:, :, None]  # a video of one frame
        self.sample, self.output, self.noise, self.image = map(convert, (sample, output, noise, image))
        self.mask = convert((rng.random((1, 1, 64, 64)) < 0.5).astype(np.float32))


def plan(name: str, scheduler: Any) -> None:
    """Plan the timed run."""
    scheduler.set_timesteps(**PLANS.get(name, {"num_inference_steps": STEPS}))
    if name == "ScoreSdeVeScheduler":
        scheduler.set_sigmas(STEPS)


def _usual(scheduler: Any, inputs: Inputs, extra: dict[str, Any]) -> int:
    scale = getattr(scheduler, "scale_model_input", lambda sample, _timestep: sample)  # flow matching has none
    sample = inputs.sample
    for timestep in scheduler.timesteps:
        scale(sample, timestep)
        sample = scheduler.step(inputs.output, timestep, sample, **extra)[0]
    return len(scheduler.timesteps)


def _last_is_the_end(scheduler: Any, inputs: Inputs, extra: dict[str, Any]) -> int:
    sample = inputs.sample
    for timestep in scheduler.timesteps[:-1]:
        sample = scheduler.step(inputs.output, timestep, sample, **extra)[0]
    return len(scheduler.timesteps) - 1


def _wuerstchen(scheduler: Any, inputs: Inputs, extra: dict[str, Any]) -> int:
    """Each image has its own timestep."""
    sample = inputs.sample
    for timestep in scheduler.timesteps[:-1]:
        each = timestep.expand(1) if isinstance(timestep, torch.Tensor) else np.full(1, timestep)
        sample = scheduler.step(inputs.output, each, sample, **extra)[0]
    return len(scheduler.timesteps) - 1


def _cogvideox_dpm(scheduler: Any, inputs: Inputs, extra: dict[str, Any]) -> int:
    """Pass the timestep and the previous step's x0 to `step`."""
    sample, old, back = inputs.sample, None, None
    for timestep in scheduler.timesteps:
        sample, old = scheduler.step(inputs.output, old, timestep, back, sample, **extra)
        back = timestep
    return len(scheduler.timesteps)


def _helios_dmd(scheduler: Any, inputs: Inputs, extra: dict[str, Any]) -> int:
    """Pass the step's number and the sample that the stage started from to `step`."""
    sample, timesteps = inputs.sample, scheduler.timesteps
    for i, timestep in enumerate(timesteps):
        sample = scheduler.step(
            inputs.output,
            timestep,
            sample,
            cur_sampling_step=i,
            dmd_noisy_tensor=inputs.sample,
            dmd_sigmas=scheduler.sigmas,
            dmd_timesteps=timesteps,
            all_timesteps=timesteps,
            **extra,
        )[0]
    return len(timesteps)


def _karras_ve(scheduler: Any, inputs: Inputs, extra: dict[str, Any]) -> int:
    """Add noise before the model, then make Heun's two calls."""
    sample = inputs.sample
    for timestep in scheduler.timesteps:
        sigma = scheduler.schedule[timestep]
        following = scheduler.schedule[timestep - 1] if timestep > 0 else 0
        raised, level = scheduler.add_noise_to_input(sample, sigma, **extra)
        result = scheduler.step(inputs.output, level, following, raised)
        if following != 0:
            result = scheduler.step_correct(
                inputs.output, level, following, raised, result.prev_sample, result.derivative
            )
        sample = result.prev_sample
    return len(scheduler.timesteps)


def _repaint(scheduler: Any, inputs: Inputs, extra: dict[str, Any]) -> int:
    """Step down, and undo steps where the timesteps go up."""
    sample, last = inputs.sample, scheduler.timesteps[0] + 1
    for timestep in scheduler.timesteps:
        if timestep < last:
            sample = scheduler.step(inputs.output, timestep, sample, inputs.image, inputs.mask, **extra)[0]
        else:
            sample = scheduler.undo_step(sample, last, **extra)
        last = timestep
    return len(scheduler.timesteps)


def _variance_exploding(scheduler: Any, inputs: Inputs, extra: dict[str, Any]) -> int:
    """Run the corrector, then the predictor."""
    sample = inputs.sample
    for timestep in scheduler.timesteps:
        sample = scheduler.step_correct(inputs.output, sample, **extra).prev_sample
        sample = scheduler.step_pred(inputs.output, timestep, sample, **extra).prev_sample
    return len(scheduler.timesteps)


def _variance_preserving(scheduler: Any, inputs: Inputs, extra: dict[str, Any]) -> int:
    sample = inputs.sample
    for timestep in scheduler.timesteps:
        sample, _ = scheduler.step_pred(inputs.output, sample, timestep, **extra)
    return len(scheduler.timesteps)


_LOOPS: Mapping[str, Callable[[Any, Inputs, dict[str, Any]], int]] = {
    "CogVideoXDPMScheduler": _cogvideox_dpm,
    "DDPMWuerstchenScheduler": _wuerstchen,
    "HeliosDMDScheduler": _helios_dmd,
    "KarrasVeScheduler": _karras_ve,
    "RePaintScheduler": _repaint,
    "SCMScheduler": _last_is_the_end,
    "ScoreSdeVeScheduler": _variance_exploding,
    "ScoreSdeVpScheduler": _variance_preserving,
}


def loop_of(name: str) -> Callable[[Any, Inputs, dict[str, Any]], int]:
    """Select the loop of a class: (planned scheduler, inputs, {"generator": ...} or {}) to the number of steps."""
    return _LOOPS.get(name, _usual)
