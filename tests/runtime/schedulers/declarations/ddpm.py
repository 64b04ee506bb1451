"""DDPM: option values."""

from scheduler_harness.declaration import STEPS, Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]
LEARNED = ("learned", "learned_range")


def _keep(case):
    options = case.options
    if options["beta_schedule"] == "laplace" and (
        options["prediction_type"] == "epsilon" or options["rescale_betas_zero_snr"]
    ):
        return False  # its second half has alpha_bar near 0 (1e-12 and below): x0 overflows float32 in diffusers
    # at a zero SNR nothing is left to predict epsilon from, and diffusers computes NaN
    starts_at_last = options["timestep_spacing"] != "leading" or options["steps_offset"] > 0
    starts_at_last = starts_at_last or "timesteps" in case.set_timesteps
    return not (options["rescale_betas_zero_snr"] and starts_at_last and options["prediction_type"] == "epsilon")


def _not_affine(case):
    if case.options["variance_type"] in LEARNED:
        return "variance_type"
    if case.options["thresholding"]:
        return "thresholding"
    return "clip_sample" if case.options["clip_sample"] else None


def _step(scheduler, array):
    scheduler.step(array(), scheduler.timesteps[0], array())


TWO = {"num_inference_steps": 2}

DECLARATIONS = [
    Declaration(
        name="DDPMScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.0001, 0.00085),
            "beta_end": (0.02, 0.012),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"),
            # not "fixed_large_log": diffusers takes the root of a negative logarithm
            "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range", None),
            "clip_sample": (False, True),
            "prediction_type": ("epsilon", "sample", "v_prediction"),
            "thresholding": (False, True),
            "dynamic_thresholding_ratio": (0.995, 0.8),
            "clip_sample_range": (1.0, 2.5),
            "sample_max_value": (1.0, 1.5, None),
            "timestep_spacing": ("leading", "trailing", "linspace"),
            "steps_offset": (0, 1),
            "rescale_betas_zero_snr": (False, True),
        },
        runs=(*({"num_inference_steps": steps} for steps in STEPS), {"timesteps": [99, 60, 20, 5]}),
        keep=_keep,
        not_affine=_not_affine,
        output_channels=lambda case: 6 if case.options["variance_type"] in LEARNED else 3,
        at_least=60,
        refusals=(
            Refusal(
                match="num_inference_steps is 1001, expected at most num_train_timesteps = 1000",
                set_timesteps={"num_inference_steps": 1001},
            ),
            Refusal(
                match="got num_inference_steps and timesteps, expected exactly one of num_inference_steps, timesteps",
                set_timesteps={"num_inference_steps": 2, "timesteps": [5, 1]},
            ),
            *(
                Refusal(
                    match="expected integers that descend from below num_train_timesteps = 1000",
                    set_timesteps={"timesteps": timesteps},
                )
                for timesteps in ([5, 9], [5, 5], [1000, 5])
            ),
            Refusal(match="option 'beta_schedule' is 'foo'", options={"beta_schedule": "foo"}),
            Refusal(match="option 'timestep_spacing' is 'foo'", options={"timestep_spacing": "foo"}, set_timesteps=TWO),
            Refusal(
                match="option 'prediction_type' is 'foo'",
                options={"prediction_type": "foo"},
                set_timesteps=TWO,
                step=_step,
            ),
            *(
                Refusal(
                    match="has 3 channels, expected 6 for a sample of 3: option 'variance_type'",
                    options={"variance_type": kind},
                    set_timesteps=TWO,
                    step=_step,
                )
                for kind in LEARNED
            ),
            Refusal(
                match="timestep 3 is not in the schedule",
                set_timesteps=TWO,
                step=lambda scheduler, array: scheduler.step(array(), 3, array()),
            ),
        ),
    )
]
