"""RePaint: option values."""

from types import SimpleNamespace

import numpy as np
import torch
from scheduler_harness.declaration import Declaration, Refusal


def _like(sample, array):
    return torch.from_numpy(array).to(sample.dtype) if isinstance(sample, torch.Tensor) else array.astype(sample.dtype)


def _loop(scheduler, sample, net, arguments, first):
    """As the RePaint pipeline: steps down, and steps undone where the timesteps go up."""
    rng = np.random.default_rng(8)
    picture = _like(sample, rng.uniform(-1, 1, tuple(sample.shape)).astype(np.float32))
    mask = _like(sample, rng.choice([0.0, 0.25, 1.0], (1, 1, *sample.shape[2:])).astype(np.float32))
    generator = arguments["generator"]
    last = scheduler.timesteps[0] + 1
    for timestep in scheduler.timesteps[first:]:
        if timestep < last:
            result = scheduler.step(net(sample, timestep), timestep, sample, picture, mask, generator=generator)
        else:
            result = SimpleNamespace(prev_sample=scheduler.undo_step(sample, last, generator=generator))
        last = timestep
        sample = result.prev_sample
        yield result


DECLARATIONS = [
    Declaration(
        name="RePaintScheduler",
        options={
            "num_train_timesteps": (1000, 100, 15),
            "beta_start": (0.0001, 0.00085),
            "beta_end": (0.02, 0.012),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
            "eta": (0.0, 0.5, 1.0),
            # diffusers takes an ndarray here and cannot read its own config back: see test_repaint.py
            "trained_betas": (None,),
            "clip_sample": (True, False),
        },
        runs=(
            *({"num_inference_steps": steps} for steps in (1, 2, 5, 20)),
            {"num_inference_steps": 20, "jump_length": 5, "jump_n_sample": 3},
            {"num_inference_steps": 50, "jump_length": 20, "jump_n_sample": 2},
            {"num_inference_steps": 12, "jump_length": 1, "jump_n_sample": 1},
        ),
        begins=(0.0,),
        loop=_loop,
        not_affine=lambda case: "the blend with argument 'mask'",
        lacks=("add_noise",),  # diffusers points to DDPM's, which ours has
        refusals=(
            Refusal(match="option 'beta_schedule' is 'foo'", options={"beta_schedule": "foo"}),
            Refusal(
                match="set_timesteps: jump_length is 0, expected at least 1",
                set_timesteps={"num_inference_steps": 5, "jump_length": 0},
            ),
            Refusal(
                match="step: no run is planned. Call set_timesteps first",
                step=lambda scheduler, array: scheduler.step(array(), 5, array(), array(), array()),
            ),
        ),
    )
]
