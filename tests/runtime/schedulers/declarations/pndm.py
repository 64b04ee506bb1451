"""PNDM: option values."""

from scheduler_harness.declaration import STEPS, Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]


def _keep(case):
    options = case.options
    starts_at_last = options["timestep_spacing"] != "leading"
    if options["beta_schedule"] == "squaredcos_cap_v2" and options["prediction_type"] == "epsilon" and starts_at_last:
        return False  # alpha_bar is 1e-9 there: epsilon is scaled by thousands, and float32 says nothing any more
    if not options["skip_prk_steps"]:
        # Runge-Kutta needs four steps; a run that starts inside its steps has no sample to go back to
        return case.set_timesteps["num_inference_steps"] > 3 and case.begin == 0.0
    return True


TWO = {"num_inference_steps": 2}

DECLARATIONS = [
    Declaration(
        name="PNDMScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.0001, 0.00085),
            "beta_end": (0.02, 0.012),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            "skip_prk_steps": (False, True),
            "set_alpha_to_one": (False, True),
            "prediction_type": ("epsilon", "v_prediction"),
            "timestep_spacing": ("leading", "trailing", "linspace"),
            "steps_offset": (0, 1),
        },
        runs=tuple({"num_inference_steps": steps} for steps in (*STEPS, 4, 7)),
        keep=_keep,
        refusals=(
            Refusal(match="num_inference_steps is 2, expected at least 4", set_timesteps=TWO),
            Refusal(match="option 'beta_schedule' is 'foo'", options={"beta_schedule": "foo"}),
            Refusal(match="option 'timestep_spacing' is 'foo'", options={"timestep_spacing": "foo"}, set_timesteps=TWO),
            Refusal(
                match="option 'prediction_type' is 'sample'",
                options={"prediction_type": "sample", "skip_prk_steps": True},
                set_timesteps=TWO,
                step=lambda scheduler, array: scheduler.step(array(), scheduler.timesteps[0], array()),
            ),
            Refusal(
                match="step: no run is planned. Call set_timesteps first",
                options={"skip_prk_steps": True},
                step=lambda scheduler, array: scheduler.step(array(), 3, array()),
            ),
        ),
    )
]
