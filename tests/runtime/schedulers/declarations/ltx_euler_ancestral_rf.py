"""LTXEulerAncestralRF: option values."""

from scheduler_harness.declaration import STEPS, Declaration, Refusal

SIGMAS = [1.0, 0.99, 0.97, 0.9, 0.725, 0.42, 0.0]

DECLARATIONS = [
    Declaration(
        name="LTXEulerAncestralRFScheduler",
        options={"num_train_timesteps": (1000, 100, 37), "eta": (1.0, 0.0, 0.5), "s_noise": (1.0, 0.0, 1.003)},
        runs=(
            *({"num_inference_steps": steps} for steps in STEPS),
            {"num_inference_steps": 5, "mu": 0.8},
            {"sigmas": SIGMAS},
            {"timesteps": SIGMAS},
            {"sigmas": SIGMAS[:4], "timesteps": SIGMAS, "num_inference_steps": 3},
        ),
        refusals=(
            Refusal(match="got nothing, expected exactly one of num_inference_steps", set_timesteps={}),
            Refusal(
                match="no run is planned. Call set_timesteps first",
                step=lambda scheduler, array: scheduler.step(array(), 1.0, array()),
            ),
            Refusal(
                match="timestep is the integer 3, expected one of the scheduler's `timesteps`",
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), 3, array()),
            ),
            Refusal(
                match="timestep 3.5 is not in the schedule",
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), 3.5, array()),
            ),
        ),
    )
]
