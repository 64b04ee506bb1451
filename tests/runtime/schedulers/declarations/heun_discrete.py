"""Heun: option values."""

from scheduler_harness.declaration import STEPS, Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]
PLACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def _steepest(scheduler):
    """The largest ratio of a noise level to the next one, by which rounding errors grow in the second call."""
    sigmas = scheduler.sigmas[scheduler.sigmas > 0]
    return float((sigmas[:-1] / sigmas[1:]).max()) if len(sigmas) > 1 else 1.0


def _keep(case):
    # refused together
    return not ("timesteps" in case.set_timesteps and any(case.options[name] for name in PLACED))


DECLARATIONS = [
    Declaration(
        name="HeunDiscreteScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.00085, 0.0001),
            "beta_end": (0.012, 0.02),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "exp"),
            PLACED: ((False, False, False), (True, False, False), (False, True, False), (False, False, True)),
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "steps_offset": (0, 1),
            "prediction_type": ("epsilon", "sample", "v_prediction"),
            "clip_sample": (False, True),
            "clip_sample_range": (1.0, 0.5),
        },
        runs=(
            *({"num_inference_steps": steps} for steps in STEPS),
            {"num_inference_steps": 4, "num_train_timesteps": 60},
            {"timesteps": [90, 70.5, 40, 10, 1]},
        ),
        keep=_keep,
        magnification=_steepest,
        not_affine=lambda case: "clip_sample" if case.options["clip_sample"] else None,
        at_least=40,
        refusals=(
            *(
                Refusal(
                    match=f"got timesteps, but the option '{name}' computes them",
                    options={name: True},
                    set_timesteps={"timesteps": [9, 5]},
                )
                for name in PLACED
            ),
            Refusal(
                match="got num_inference_steps and timesteps, expected exactly one of num_inference_steps, timesteps",
                set_timesteps={"num_inference_steps": 2, "timesteps": [9, 5]},
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
