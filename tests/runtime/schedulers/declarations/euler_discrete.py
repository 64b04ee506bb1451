"""Euler: option values."""

from scheduler_harness.declaration import STEPS, Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]
PLACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def _keep(case):
    options, run = case.options, case.set_timesteps
    continuous = options["timestep_type"] == "continuous" and options["prediction_type"] == "v_prediction"
    if options["sigma_max"] is not None and options["num_train_timesteps"] == 100:
        return False  # above the trained sigmas: the first timestep repeats, and diffusers runs off the end
    # refused together
    return not ("timesteps" in run and (continuous or any(options[name] for name in PLACED)))


DECLARATIONS = [
    Declaration(
        name="EulerDiscreteScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.0001, 0.00085),
            "beta_end": (0.02, 0.012),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            "prediction_type": ("epsilon", "sample", "original_sample", "v_prediction"),
            "interpolation_type": ("linear", "log_linear"),
            PLACED: ((False, False, False), (True, False, False), (False, True, False), (False, False, True)),
            "sigma_min": (None, 0.05),
            "sigma_max": (None, 8.0),
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "timestep_type": ("discrete", "continuous"),
            "steps_offset": (0, 1),
            "rescale_betas_zero_snr": (False, True),
            "final_sigmas_type": ("zero", "sigma_min"),
        },
        runs=(
            *({"num_inference_steps": steps} for steps in STEPS),
            {"timesteps": [90, 70.5, 40, 10, 1]},
            {"sigmas": [14.615, 6.475, 3.861, 0.652, 0.152, 0.0]},
        ),
        step={"s_churn": (0.0, 5.0), "s_tmin": (0.0, 0.5), "s_tmax": (float("inf"), 10.0), "s_noise": (1.0, 1.003)},
        keep=_keep,
        at_least=60,
        refusals=(
            Refusal(
                match="options use_karras_sigmas and use_beta_sigmas are both true, expected at most one of",
                options={"use_karras_sigmas": True, "use_beta_sigmas": True},
            ),
            Refusal(
                match="got timesteps and sigmas, expected exactly one of num_inference_steps, timesteps, sigmas",
                set_timesteps={"timesteps": [9, 5], "sigmas": [3.0, 0.0]},
            ),
            Refusal(
                match="got num_inference_steps and sigmas, expected exactly one of",
                set_timesteps={"num_inference_steps": 1, "sigmas": [3.0, 0.0]},
            ),
            Refusal(match="got nothing, expected exactly one of", set_timesteps={}),
            *(
                Refusal(
                    match=f"got timesteps, but the option '{name}' computes them",
                    options={name: True},
                    set_timesteps={"timesteps": [9, 5]},
                )
                for name in PLACED
            ),
            Refusal(
                match="got timesteps, but the option 'timestep_type': 'continuous' with 'v_prediction' computes them",
                options={"timestep_type": "continuous", "prediction_type": "v_prediction"},
                set_timesteps={"timesteps": [9, 5]},
            ),
            *(
                Refusal(
                    match=f"option '{name}' is 'foo', expected", options={name: "foo"}, set_timesteps=plan, step=step
                )
                for name, plan, step in (
                    ("beta_schedule", None, None),
                    ("interpolation_type", {"num_inference_steps": 2}, None),
                    ("timestep_spacing", {"num_inference_steps": 2}, None),
                    ("final_sigmas_type", {"num_inference_steps": 2}, None),
                    ("prediction_type", {"num_inference_steps": 2}, lambda s, a: s.step(a(), s.timesteps[0], a())),
                )
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
