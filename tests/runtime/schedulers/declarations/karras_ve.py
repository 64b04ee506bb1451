"""Karras et al.'s stochastic sampler: option values."""

import torch
from scheduler_harness.declaration import Declaration, Refusal
from scheduler_harness.side_by_side import SEED, RoundedNoise


def _loop(scheduler, sample, net, arguments, first):
    """As the pipeline of this scheduler: noise before the model, then Heun's two calls.

    The levels go up to 10,000 here and each output is multiplied with its level: a model whose slope were near one
    would multiply the rounding of float32 with it.
    """
    generator = torch.Generator().manual_seed(SEED) if isinstance(sample, torch.Tensor) else RoundedNoise(SEED)
    for timestep in scheduler.timesteps[first:]:
        sigma = scheduler.schedule[timestep]
        following = scheduler.schedule[timestep - 1] if timestep > 0 else 0
        raised, level = scheduler.add_noise_to_input(sample, sigma, generator=generator)
        output = net((raised + 1) / 200, timestep)
        result = scheduler.step(output, level, following, raised)
        if following != 0:
            yield result
            output = net((result.prev_sample + 1) / 200, timestep)
            result = scheduler.step_correct(output, level, following, raised, result.prev_sample, result.derivative)
        sample = result.prev_sample
        yield result


def _steepest(scheduler):
    """diffusers gets the corrected derivative as (x - x0) / sigma' and multiplies it with the level above sigma'."""
    levels = scheduler.schedule.numpy()
    return float((levels[1:] / levels[:-1]).max())


DECLARATIONS = [
    Declaration(
        name="KarrasVeScheduler",
        options={
            "sigma_min": (0.02, 0.1),
            "sigma_max": (100, 20.0),
            "s_noise": (1.007, 1.0),
            "s_churn": (80, 0.0, 3.0),
            "s_min": (0.05, 0.5),
            "s_max": (50, 10.0),
        },
        runs=tuple({"num_inference_steps": steps} for steps in (2, 5, 20, 50)),
        begins=(0.0,),
        not_affine=lambda case: "feeding the model anything but a multiple of the sample",
        magnification=_steepest,
        lacks=("add_noise",),
        loop=_loop,
        refusals=(
            Refusal(
                match="step: no run is planned. Call set_timesteps first",
                step=lambda scheduler, array: scheduler.add_noise_to_input(array(), 1.0),
            ),
        ),
    )
]
