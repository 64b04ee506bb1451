"""LCM: option values."""

from scheduler_harness.declaration import Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]


def _keep(case):
    options, run = case.options, case.set_timesteps
    if options["rescale_betas_zero_snr"] and options["prediction_type"] == "epsilon":
        return False  # a zero SNR at the first timestep leaves nothing to predict epsilon from: NaN in diffusers
    # refused: more steps than the distillation had
    distilled = run.get("original_inference_steps", options["original_inference_steps"])
    return run.get("num_inference_steps", 0) <= distilled * run.get("strength", 1.0)


DECLARATIONS = [
    Declaration(
        name="LCMScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.00085, 0.0001),
            "beta_end": (0.012, 0.02),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            "original_inference_steps": (50, 20, 7),
            "clip_sample": (False, True),
            "clip_sample_range": (1.0, 0.5),
            "set_alpha_to_one": (True, False),
            "steps_offset": (0, 1),
            "prediction_type": ("epsilon", "sample", "v_prediction"),
            "thresholding": (False, True),
            "dynamic_thresholding_ratio": (0.995, 0.8),
            "sample_max_value": (1.0, 1.5),
            "timestep_spacing": ("leading", "linspace", "trailing"),
            "timestep_scaling": (10.0, 0.002),
            "rescale_betas_zero_snr": (False, True),
        },
        runs=(
            *({"num_inference_steps": steps} for steps in (1, 2, 5, 20, 50)),
            {"num_inference_steps": 4, "strength": 0.6},
            {"num_inference_steps": 3, "original_inference_steps": 10, "strength": 0.5},
            {"num_inference_steps": 6, "original_inference_steps": 25},
            {"timesteps": [99, 80, 60, 20, 0]},
            {"timesteps": [95, 60, 30, 11], "strength": 0.5},
        ),
        keep=_keep,
        not_affine=lambda case: next((name for name in ("thresholding", "clip_sample") if case.options[name]), None),
        predicted="denoised",
        at_least=60,
        refusals=(
            Refusal(match="got nothing, expected exactly one of num_inference_steps, timesteps", set_timesteps={}),
            Refusal(
                match="got num_inference_steps and timesteps, expected exactly one of",
                set_timesteps={"num_inference_steps": 2, "timesteps": [7, 3]},
            ),
            Refusal(
                match=r"got timesteps \[3, 7\], expected integers that descend from below num_train_timesteps = 1000",
                set_timesteps={"timesteps": [3, 7]},
            ),
            Refusal(
                match=r"got timesteps \[1000, 7\], expected integers that descend from below",
                set_timesteps={"timesteps": [1000, 7]},
            ),
            Refusal(
                match="num_inference_steps is 11, expected at most num_train_timesteps = 10",
                options={"num_train_timesteps": 10, "original_inference_steps": 10},
                set_timesteps={"num_inference_steps": 11},
            ),
            Refusal(
                match="num_inference_steps is 30, expected at most 25: the distillation's original_inference_steps",
                set_timesteps={"num_inference_steps": 30, "strength": 0.5},
            ),
            Refusal(
                match="num_inference_steps is 9, expected at most 8: the distillation",
                set_timesteps={"num_inference_steps": 9, "original_inference_steps": 8},
            ),
            Refusal(
                match="original_inference_steps is 50, expected from 1 to num_train_timesteps = 10",
                options={"num_train_timesteps": 10},
                set_timesteps={"num_inference_steps": 2},
            ),
            Refusal(
                match="original_inference_steps is 0, expected from 1 to num_train_timesteps = 1000",
                options={"original_inference_steps": 0},
                set_timesteps={"num_inference_steps": 2},
            ),
            Refusal(
                match="step: no run is planned. Call set_timesteps first",
                step=lambda scheduler, array: scheduler.step(array(), 5, array()),
            ),
            Refusal(
                match="timestep 3 is not in the schedule",
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), 3, array()),
            ),
            *(
                Refusal(
                    match=f"option '{name}' is 'foo', expected", options={name: "foo"}, set_timesteps=plan, step=step
                )
                for name, plan, step in (
                    ("beta_schedule", None, None),
                    ("prediction_type", {"num_inference_steps": 2}, lambda s, a: s.step(a(), s.timesteps[0], a())),
                )
            ),
        ),
    )
]
