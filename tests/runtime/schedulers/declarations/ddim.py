"""DDIM: option values."""

import torch
from scheduler_harness.declaration import Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]


def _keep(case):
    options = case.options
    # a zero SNR at the first timestep leaves nothing to predict epsilon from,
    # and diffusers then computes NaN
    starts_at_last = options["timestep_spacing"] != "leading" or options["steps_offset"] > 0
    if options["rescale_betas_zero_snr"] and starts_at_last:
        # ... and with eta = 1 it takes the root of 1 - a' - s^2, which is zero or, by rounding, just below
        return options["prediction_type"] != "epsilon" and case.step["eta"] < 1.0
    return True


def _not_affine(case):
    if case.options["thresholding"]:
        return "thresholding"
    return "clip_sample" if case.options["clip_sample"] else None


def _step(**arguments):
    return lambda scheduler, array: scheduler.step(array(), scheduler.timesteps[0], array(), **arguments)


TWO = {"num_inference_steps": 2}
REFUSALS = (
    Refusal(
        match="num_inference_steps is 1001, expected at most num_train_timesteps = 1000",
        set_timesteps={"num_inference_steps": 1001},
    ),
    Refusal(match="step: no run is planned. Call set_timesteps first", step=_step()),
    Refusal(match="option 'beta_schedule' is 'foo', expected", options={"beta_schedule": "foo"}),
    Refusal(match="option 'timestep_spacing' is 'foo'", options={"timestep_spacing": "foo"}, set_timesteps=TWO),
    Refusal(
        match="option 'prediction_type' is 'foo'", options={"prediction_type": "foo"}, set_timesteps=TWO, step=_step()
    ),
    Refusal(
        match="got both generator and variance_noise, expected one of them",
        set_timesteps=TWO,
        step=_step(eta=1.0, generator=torch.Generator(), variance_noise=object()),
    ),
)

DECLARATIONS = [
    Declaration(
        name="DDIMScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.0001, 0.00085),
            "beta_end": (0.02, 0.012),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            "clip_sample": (True, False),
            "set_alpha_to_one": (True, False),
            "steps_offset": (0, 1),
            "prediction_type": ("epsilon", "sample", "v_prediction"),
            "thresholding": (False, True),
            "dynamic_thresholding_ratio": (0.995, 0.8),
            "clip_sample_range": (1.0, 2.5),
            "sample_max_value": (1.0, 1.5),
            "timestep_spacing": ("leading", "trailing", "linspace"),
            "rescale_betas_zero_snr": (False, True),
        },
        step={"eta": (0.0, 0.6, 1.0), "use_clipped_model_output": (False, True)},
        begins=(0.0,),
        not_affine=_not_affine,
        refusals=REFUSALS,
        keep=_keep,
    )
]
