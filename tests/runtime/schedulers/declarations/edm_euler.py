"""Euler for EDM models: option values."""

import torch
from scheduler_harness.declaration import STEPS, Declaration, Refusal

TWO = {"num_inference_steps": 2}

DECLARATIONS = [
    Declaration(
        name="EDMEulerScheduler",
        options={
            "sigma_min": (0.002, 0.03),
            "sigma_max": (80.0, 14.6),
            "sigma_data": (0.5, 1.0),
            "sigma_schedule": ("karras", "exponential"),
            "num_train_timesteps": (1000, 100),
            "prediction_type": ("epsilon", "v_prediction"),
            "rho": (7.0, 3.0),
            "final_sigmas_type": ("zero", "sigma_min"),
        },
        runs=(
            *({"num_inference_steps": steps} for steps in STEPS),
            {"sigmas": torch.tensor([0.0, 0.1, 0.35, 0.5, 0.95])},
            {"num_inference_steps": 3, "sigmas": torch.tensor([0.0, 0.6, 1.0], dtype=torch.float64)},
        ),
        step={"s_churn": (0.0, 5.0), "s_tmin": (0.0, 0.5), "s_tmax": (float("inf"), 10.0), "s_noise": (1.0, 1.003)},
        refusals=(
            Refusal(match="option 'sigma_schedule' is 'beta'", options={"sigma_schedule": "beta"}),
            Refusal(match="option 'final_sigmas_type' is 'foo'", options={"final_sigmas_type": "foo"}),
            Refusal(
                match="option 'prediction_type' is 'sample'",
                options={"prediction_type": "sample"},
                set_timesteps=TWO,
                step=lambda scheduler, array: scheduler.step(array(), scheduler.timesteps[0], array()),
            ),
            Refusal(
                match="timestep is the integer 3, expected one of the scheduler's `timesteps`",
                set_timesteps=TWO,
                step=lambda scheduler, array: scheduler.step(array(), 3, array()),
            ),
            Refusal(
                match="timestep 3.5 is not in the schedule",
                set_timesteps=TWO,
                step=lambda scheduler, array: scheduler.step(array(), 3.5, array()),
            ),
        ),
    )
]
