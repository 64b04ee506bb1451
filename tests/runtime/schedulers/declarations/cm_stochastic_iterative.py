"""CMStochasticIterative: option values."""

from scheduler_harness.declaration import Declaration, Refusal

DECLARATIONS = [
    Declaration(
        name="CMStochasticIterativeScheduler",
        options={
            "num_train_timesteps": (40, 10, 100),
            "sigma_min": (0.002, 0.02),
            "sigma_max": (80.0, 20.0),
            "sigma_data": (0.5, 1.0),
            "s_noise": (1.0, 1.003),
            "rho": (7.0, 5.0),
            "clip_denoised": (True, False),
        },
        runs=(
            *({"num_inference_steps": steps} for steps in (1, 2, 5, 20, 40, 50)),
            {"timesteps": [9, 4, 0]},
            {"timesteps": [7, 3]},
        ),
        # refused: more steps than levels
        keep=lambda case: case.set_timesteps.get("num_inference_steps", 0) <= case.options["num_train_timesteps"],
        not_affine=lambda case: "clip_denoised" if case.options["clip_denoised"] else None,
        refusals=(
            Refusal(match="got nothing, expected exactly one of num_inference_steps, timesteps", set_timesteps={}),
            Refusal(
                match="got num_inference_steps and timesteps, expected exactly one of",
                set_timesteps={"num_inference_steps": 2, "timesteps": [7, 3]},
            ),
            Refusal(
                match=r"got timesteps \[3, 7\], expected integers that descend from below num_train_timesteps = 40",
                set_timesteps={"timesteps": [3, 7]},
            ),
            Refusal(
                match=r"got timesteps \[40, 7\], expected integers that descend from below num_train_timesteps = 40",
                set_timesteps={"timesteps": [40, 7]},
            ),
            Refusal(
                match="num_inference_steps is 41, expected at most num_train_timesteps = 40",
                set_timesteps={"num_inference_steps": 41},
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
