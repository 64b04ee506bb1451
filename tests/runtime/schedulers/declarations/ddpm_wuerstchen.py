"""Würstchen's DDPM: option values."""

import numpy as np
import torch
from scheduler_harness.declaration import STEPS, Declaration, Refusal


def _loop(scheduler, sample, net, arguments, first):
    """As the Würstchen pipelines: the last timestep is only where the run ends, and each image has its own."""
    for timestep in scheduler.timesteps[first:-1]:
        each = timestep.expand(len(sample)) if isinstance(sample, torch.Tensor) else np.full(len(sample), timestep)
        result = scheduler.step(net(scheduler.scale_model_input(sample, timestep), timestep), each, sample, **arguments)
        sample = result.prev_sample
        yield result


DECLARATIONS = [
    Declaration(
        name="DDPMWuerstchenScheduler",
        options={"scaler": (1.0, 0.5, 0.9, 1.2, 2.0), "s": (0.008, 0.001, 0.05)},
        runs=(
            *({"num_inference_steps": steps} for steps in STEPS),
            {"timesteps": [1.0, 0.7, 0.35, 0.1, 0.0]},
            {"timesteps": [0.9, 0.5, 0.2]},
            {"num_inference_steps": 9, "timesteps": [1.0, 0.5, 0.0]},
        ),
        begins=(0.0, 0.4),
        # diffusers warps float32 timesteps in float32, whatever the sample is
        exact_tolerance=2e-5,
        loop=_loop,
        refusals=(
            Refusal(
                match="timestep 0.0 is where the run ends, expected one of `model_timesteps`",
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), scheduler.timesteps[-1:], array()),
            ),
            Refusal(
                match="step: no run is planned. Call set_timesteps first",
                step=lambda scheduler, array: scheduler.step(array(), array()[0, 0, 0, :1] + 1, array()),
            ),
            Refusal(match="got nothing, expected exactly one of num_inference_steps, timesteps", set_timesteps={}),
        ),
    )
]
