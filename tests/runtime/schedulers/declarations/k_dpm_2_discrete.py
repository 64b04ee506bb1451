"""KDPM2: option values."""

from scheduler_harness.declaration import STEPS, Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]
PLACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def _steepest(scheduler):
    """The largest ratio of a noise level to the next one, by which rounding errors grow in the second call."""
    sigmas = scheduler.sigmas[scheduler.sigmas > 0]
    return float((sigmas[:-1] / sigmas[1:]).max()) if len(sigmas) > 1 else 1.0


DECLARATIONS = [
    Declaration(
        name="KDPM2DiscreteScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (300, None), (100, BETAS)),
            "beta_start": (0.00085, 0.0001),
            "beta_end": (0.012, 0.02),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            PLACED: ((False, False, False), (True, False, False), (False, True, False), (False, False, True)),
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "steps_offset": (0, 1),
            "prediction_type": ("epsilon", "v_prediction"),
        },
        runs=(
            *({"num_inference_steps": steps} for steps in STEPS),
            {"num_inference_steps": 4, "num_train_timesteps": 60},
        ),
        magnification=_steepest,
        refusals=(
            Refusal(
                match="option 'prediction_type' is 'sample', expected 'epsilon' or 'v_prediction'",
                options={"prediction_type": "sample"},
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), scheduler.timesteps[0], array()),
            ),
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
                match="the run of 3 steps is over. Call set_timesteps again",
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: [scheduler.step(array(), t, array()) for t in [*scheduler.timesteps] * 3],
            ),
        ),
    )
]
