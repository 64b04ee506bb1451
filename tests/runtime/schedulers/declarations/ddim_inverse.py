"""DDIM backwards: option values."""

from scheduler_harness.declaration import Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]


def _keep(case):
    options = case.options
    # the first step starts from alpha_bar = 1, where nothing is left to predict epsilon from: diffusers divides by 0
    return not (options["prediction_type"] == "sample" and options["set_alpha_to_one"])


def _step(scheduler, array):
    scheduler.step(array(), scheduler.timesteps[0], array())


TWO = {"num_inference_steps": 2}

DECLARATIONS = [
    Declaration(
        name="DDIMInverseScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.0001, 0.00085),
            "beta_end": (0.02, 0.012),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            "clip_sample": (True, False),
            "set_alpha_to_one": (True, False),
            "steps_offset": (0, 1),
            "prediction_type": ("epsilon", "sample", "v_prediction"),
            "clip_sample_range": (1.0, 2.5),
            "timestep_spacing": ("leading", "trailing"),
            "rescale_betas_zero_snr": (False, True),
        },
        begins=(0.0,),
        keep=_keep,
        not_affine=lambda case: "clip_sample" if case.options["clip_sample"] else None,
        refusals=(
            Refusal(
                match="num_inference_steps is 1001, expected at most num_train_timesteps = 1000",
                set_timesteps={"num_inference_steps": 1001},
            ),
            Refusal(
                match="step: no run is planned. Call set_timesteps first",
                step=lambda scheduler, array: scheduler.step(array(), 3, array()),
            ),
            Refusal(match="option 'beta_schedule' is 'foo'", options={"beta_schedule": "foo"}),
            Refusal(
                match="option 'timestep_spacing' is 'linspace', expected 'leading' or 'trailing'",
                options={"timestep_spacing": "linspace"},
                set_timesteps=TWO,
            ),
            Refusal(
                match="option 'prediction_type' is 'foo'",
                options={"prediction_type": "foo"},
                set_timesteps=TWO,
                step=_step,
            ),
        ),
    )
]
