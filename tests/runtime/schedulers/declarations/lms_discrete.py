"""LMS: option values."""

from scheduler_harness.declaration import Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]
PLACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


DECLARATIONS = [
    Declaration(
        name="LMSDiscreteScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.0001, 0.00085),
            "beta_end": (0.02, 0.012),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            PLACED: ((False, False, False), (True, False, False), (False, True, False), (False, False, True)),
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "steps_offset": (0, 1),
            "prediction_type": ("epsilon", "sample", "v_prediction"),
        },
        step={"order": (4, 1, 2, 3)},
        at_least=30,
        refusals=(
            Refusal(
                match="options use_karras_sigmas and use_beta_sigmas are both true, expected at most one of",
                options={"use_karras_sigmas": True, "use_beta_sigmas": True},
            ),
            Refusal(match="got nothing, expected exactly one of num_inference_steps", set_timesteps={}),
            *(
                Refusal(
                    match=f"option '{name}' is 'foo', expected", options={name: "foo"}, set_timesteps=plan, step=step
                )
                for name, plan, step in (
                    ("beta_schedule", None, None),
                    ("timestep_spacing", {"num_inference_steps": 2}, None),
                    ("prediction_type", {"num_inference_steps": 2}, lambda s, a: s.step(a(), s.timesteps[0], a())),
                )
            ),
            Refusal(
                match="timestep 3.5 is not in the schedule",
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), 3.5, array()),
            ),
            Refusal(
                match="the run of 2 steps is over. Call set_timesteps again",
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: [scheduler.step(array(), t, array()) for t in [*scheduler.timesteps] * 3],
            ),
        ),
    )
]
