"""Euler ancestral: option values."""

from scheduler_harness.declaration import Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]


def _step(scheduler, array):
    scheduler.step(array(), scheduler.timesteps[0], array())


TWO = {"num_inference_steps": 2}

DECLARATIONS = [
    Declaration(
        name="EulerAncestralDiscreteScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.0001, 0.00085),
            "beta_end": (0.02, 0.012),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            "prediction_type": ("epsilon", "v_prediction"),
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "steps_offset": (0, 1),
            "rescale_betas_zero_snr": (False, True),
        },
        refusals=(
            Refusal(match="option 'beta_schedule' is 'foo'", options={"beta_schedule": "foo"}),
            Refusal(match="option 'timestep_spacing' is 'foo'", options={"timestep_spacing": "foo"}, set_timesteps=TWO),
            *(
                Refusal(
                    match=f"option 'prediction_type' is '{kind}'",
                    options={"prediction_type": kind},
                    set_timesteps=TWO,
                    step=_step,
                )
                for kind in ("sample", "foo")
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
