"""pi-Flow: option values."""

import numpy as np
import torch
from scheduler_harness.declaration import STEPS, Declaration, Refusal


def _loop(scheduler, sample, net, arguments, first):
    """Each output of the grid from a call of the model at another time, side by side in the last axis."""
    join = torch.cat if isinstance(sample, torch.Tensor) else np.concatenate
    for timestep in scheduler.timesteps[first:]:
        outputs = [net(sample, float(timestep) - 7.0 * place) for place in range(scheduler.config.n_grid)]
        result = scheduler.step(join(outputs, -1), timestep, sample)
        sample = result.prev_sample
        yield result


TWO = {"num_inference_steps": 2}


def _step(make_output, timestep=None):
    def step(scheduler, array):
        scheduler.step(make_output(array()), scheduler.timesteps[0] if timestep is None else timestep, array())

    return step


def _beside(count):
    return lambda array: array.repeat(*([1] * 3), count) if isinstance(array, torch.Tensor) else array.repeat(count, -1)


def _over(scheduler, array):
    for _ in range(3):
        scheduler.step(_beside(10)(array()), scheduler.timesteps[0], array())


DECLARATIONS = [
    Declaration(
        name="PiflowScheduler",
        options={
            "num_train_timesteps": (1000, 100),
            "shift": (5.0, 1.0, 3.2),
            "n_grid": (10, 2, 5),
            "eps": (1e-6, 1e-3),
            "final_step_size_scale": (0.5, 1.0, 0.3),
            "num_policy_substeps": (128, 16, 1),
        },
        runs=tuple({"num_inference_steps": steps} for steps in STEPS),
        not_affine=lambda case: "a sum over the n_grid outputs",
        loop=_loop,
        refusals=(
            Refusal(match="option 'n_grid' is 1, expected at least 2", options={"n_grid": 1}),
            Refusal(match="option 'num_policy_substeps' is 0, expected at least 1", options={"num_policy_substeps": 0}),
            Refusal(match="option 'eps' is 0.0, expected more than 0", options={"eps": 0.0}),
            *(
                Refusal(
                    match="option 'final_step_size_scale' is .*, expected more than 0 and at most 1",
                    options={"final_step_size_scale": scale},
                )
                for scale in (0.0, 1.1)
            ),
            Refusal(match="set_timesteps does not take 'sigmas'. It takes ", set_timesteps={"sigmas": [1.0, 0.0]}),
            Refusal(match="set_timesteps does not take 'timesteps'. It takes ", set_timesteps={"timesteps": [900, 0]}),
            Refusal(match="set_timesteps does not take 'mu'. It takes ", set_timesteps={**TWO, "mu": 1.0}),
            Refusal(
                match="timestep is the integer 3, expected one of",
                set_timesteps=TWO,
                step=_step(_beside(10), timestep=3),
            ),
            Refusal(
                match="timestep 3.5 is not in the schedule", set_timesteps=TWO, step=_step(_beside(10), timestep=3.5)
            ),
            Refusal(match="the run of 2 steps is over. Call set_timesteps again", set_timesteps=TWO, step=_over),
            *(
                Refusal(
                    match=r"model output has shape \(1, 3, 4, \d+\), expected \(1, 3, 4, 80\): that of the sample with",
                    set_timesteps=TWO,
                    step=_step(_beside(count)),
                )
                for count in (1, 9, 20)
            ),
        ),
    )
]
