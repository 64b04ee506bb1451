"""DPM-Solver++ for the cosine schedule: option values."""

from scheduler_harness.declaration import Declaration, Refusal

TWO = {"num_inference_steps": 2}


def _keep(case):
    """Exclude runs to sigma_min: their last step has no length, or rounding reverses it, and diffusers fails."""
    one_step = case.set_timesteps["num_inference_steps"] == 1 and case.options["sigma_schedule"] == "karras"
    return case.options["final_sigmas_type"] == "zero" or one_step


def _step(scheduler, array):
    scheduler.step(array(), scheduler.timesteps[0], array())


def _all_steps(scheduler, array):
    for timestep in scheduler.timesteps:
        scheduler.step(array(), timestep, array())


DECLARATIONS = [
    Declaration(
        name="CosineDPMSolverMultistepScheduler",
        options={
            "sigma_min": (0.3, 0.03),
            "sigma_max": (500, 80.0),
            "sigma_data": (1.0, 0.5),
            "sigma_schedule": ("exponential", "karras"),
            "num_train_timesteps": (1000, 100),
            "solver_order": (2, 1),
            "prediction_type": ("v_prediction", "epsilon"),
            "rho": (7.0, 3.0),
            "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
            "lower_order_final": (True, False),
            "euler_at_final": (False, True),
            "final_sigmas_type": ("zero", "sigma_min"),
        },
        runs=tuple({"num_inference_steps": steps} for steps in (1, 2, 5, 15, 20, 50)),
        keep=_keep,
        not_affine=lambda case: "noise from a Brownian path",
        refusals=(
            *(
                Refusal(match=f"option '{name}' is 'foo'", options={name: "foo"}, set_timesteps=TWO, step=_step)
                for name in ("solver_type", "sigma_schedule", "final_sigmas_type", "prediction_type")
            ),
            Refusal(
                match="option 'solver_order' is 3, expected 1 or 2",
                options={"solver_order": 3, "lower_order_final": False},
                set_timesteps={"num_inference_steps": 9},
                step=_all_steps,
            ),
            Refusal(match="got nothing, expected exactly one of num_inference_steps", set_timesteps={}),
            Refusal(match="step: no run is planned. Call set_timesteps first", step=_step),
        ),
    )
]
