"""FlowMatchLCM: option values."""

from scheduler_harness.declaration import STEPS, Declaration, Refusal

MU = {"mu": 0.8}
FACTORS = [1.0, 1.5, 0.7, 2.0]


def _keep(case):
    options, run = case.options, case.set_timesteps
    if options["use_dynamic_shifting"] and "mu" not in run:
        return False  # refused
    if options["shift_terminal"] and run.get("num_inference_steps") == 1:
        return False  # one sigma, which is one: diffusers stretches by 0 / 0
    if options["scale_factors"] is None:
        return True
    steps = run.get("num_inference_steps") or len(run.get("sigmas") or run["timesteps"])
    # refused: another number of factors, and modes for other dimensions, which test_resampling.py has
    return steps == len(FACTORS) + 1 and options["upscale_mode"] not in ("linear", "trilinear")


DECLARATIONS = [
    Declaration(
        name="FlowMatchLCMScheduler",
        options={
            "num_train_timesteps": (1000, 100),
            "shift": (1.0, 3.0),
            "use_dynamic_shifting": (False, True),
            "base_shift": (0.5, 0.3),
            "max_shift": (1.15, 2.0),
            "base_image_seq_len": (256, 64),
            "max_image_seq_len": (4096, 1024),
            "invert_sigmas": (False, True),
            "shift_terminal": (None, 0.1),
            ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"): (
                (False, False, False),
                (True, False, False),
                (False, True, False),
                (False, False, True),
            ),
            "time_shift_type": ("exponential", "linear"),
            "scale_factors": (None, FACTORS),
            "upscale_mode": ("nearest", "linear", "bilinear", "bicubic", "trilinear", "area", "nearest-exact"),
        },
        runs=(
            *({"num_inference_steps": steps, **MU} for steps in STEPS),
            {"num_inference_steps": 5},
            {"sigmas": [1.0, 0.75, 0.5, 0.35, 0.2], **MU},
            {"timesteps": [95, 60.5, 30, 15, 5], **MU},
            {"num_inference_steps": 3, "timesteps": [99, 50, 9], "sigmas": [1.0, 0.6, 0.3], **MU},
        ),
        keep=_keep,
        not_affine=lambda case: "scale_factors" if case.options["scale_factors"] else None,
        at_least=60,
        max_sigma_ulp=1,  # the last float64 bit of SciPy's beta quantile may decide a rounding
        refusals=(
            Refusal(
                match="options use_exponential_sigmas and use_beta_sigmas are both true, expected at most one of",
                options={"use_exponential_sigmas": True, "use_beta_sigmas": True},
            ),
            Refusal(
                match="option 'time_shift_type' is 'foo', expected 'exponential' or 'linear'",
                options={"time_shift_type": "foo"},
            ),
            Refusal(
                match="set_timesteps needs mu, because the option 'use_dynamic_shifting' is true",
                options={"use_dynamic_shifting": True},
                set_timesteps={"num_inference_steps": 2},
            ),
            Refusal(
                match=r"got different numbers of steps \(timesteps: 2, sigmas: 1\), expected the same",
                set_timesteps={"timesteps": [9, 5], "sigmas": [0.9]},
            ),
            Refusal(
                match="'scale_factors' has 4 values for 2 timesteps, expected one fewer than timesteps",
                options={"scale_factors": FACTORS},
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), scheduler.timesteps[0], array()),
            ),
            Refusal(
                match="resampling mode 'linear' is not for 2 spatial axes, expected one of nearest, bilinear, bicubic",
                options={"scale_factors": [2.0], "upscale_mode": "linear"},
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), scheduler.timesteps[0], array()),
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
