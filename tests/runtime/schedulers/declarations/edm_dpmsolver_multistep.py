"""DPM-Solver++ for EDM models: option values."""

from scheduler_harness.declaration import Declaration, Refusal

TWO = {"num_inference_steps": 2}
SOLVER = ("algorithm_type", "solver_order")


def _keep(case):
    options = case.options
    # the last step to sigma_min has no length: h = 0, or what rounding makes of it, by which diffusers then divides
    repeats = options["final_sigmas_type"] == "sigma_min"
    if repeats and options["algorithm_type"] == "sde-dpmsolver++":
        return False  # where it is rounded up, diffusers takes the root of a negative number
    short = options["lower_order_final"] and case.set_timesteps["num_inference_steps"] < 15
    midpoint = options["solver_order"] == 2 and options["solver_type"] != "heun"
    return not repeats or short or options["euler_at_final"] or midpoint or options["solver_order"] == 1


def _step(scheduler, array):
    scheduler.step(array(), scheduler.timesteps[0], array())


def _all_steps(scheduler, array):
    for timestep in scheduler.timesteps:
        scheduler.step(array(), timestep, array())


DECLARATIONS = [
    Declaration(
        name="EDMDPMSolverMultistepScheduler",
        options={
            "sigma_min": (0.002, 0.03),
            "sigma_max": (80.0, 14.6),
            "sigma_data": (0.5, 1.0),
            "sigma_schedule": ("karras", "exponential"),
            "num_train_timesteps": (1000, 100),
            "prediction_type": ("epsilon", "v_prediction"),
            "rho": (7.0, 3.0),
            SOLVER: (
                ("dpmsolver++", 2),
                ("dpmsolver++", 1),
                ("dpmsolver++", 3),
                ("sde-dpmsolver++", 1),
                ("sde-dpmsolver++", 2),
            ),
            "thresholding": (False, True),
            "dynamic_thresholding_ratio": (0.995, 0.8),
            "sample_max_value": (1.0, 1.5),
            "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
            "lower_order_final": (True, False),
            "euler_at_final": (False, True),
            "final_sigmas_type": ("zero", "sigma_min"),
        },
        runs=tuple({"num_inference_steps": steps} for steps in (1, 2, 5, 14, 15, 20, 50)),
        keep=_keep,
        not_affine=lambda case: "thresholding" if case.options["thresholding"] else None,
        refusals=(
            *(
                Refusal(match=f"option '{name}' is 'foo'", options={name: "foo"}, set_timesteps=TWO, step=_step)
                for name in ("algorithm_type", "solver_type", "sigma_schedule", "final_sigmas_type", "prediction_type")
            ),
            Refusal(match="option 'algorithm_type' is 'deis', expected", options={"algorithm_type": "deis"}),
            Refusal(
                match="option 'solver_order' is 3 with algorithm_type 'sde-dpmsolver\\+\\+', expected 1 or 2",
                options={"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "lower_order_final": False},
                set_timesteps={"num_inference_steps": 9},
                step=_all_steps,
            ),
            Refusal(match="got nothing, expected exactly one of num_inference_steps", set_timesteps={}),
            Refusal(match="step: no run is planned. Call set_timesteps first", step=_step),
        ),
    )
]
