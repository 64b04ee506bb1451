"""CogVideoX's schedulers: option values."""

from types import SimpleNamespace

from scheduler_harness.declaration import Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]
OPTIONS = {
    ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
    "beta_start": (0.00085, 0.0001),
    "beta_end": (0.012, 0.02),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "clip_sample": (True, False),
    "set_alpha_to_one": (True, False),
    "steps_offset": (0, 1),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "clip_sample_range": (1.0, 2.5),
    "sample_max_value": (1.0, 1.5),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "rescale_betas_zero_snr": (False, True),
    "snr_shift_scale": (3.0, 1.0, 0.5),
}


def _keep(case):
    options = case.options
    # at a zero SNR nothing is left to predict epsilon from, and diffusers computes NaN
    starts_at_last = options["timestep_spacing"] != "leading" or options["steps_offset"] > 0
    return not (options["rescale_betas_zero_snr"] and starts_at_last and options["prediction_type"] == "epsilon")


def _dpm_loop(scheduler, sample, net, arguments, first):
    """As the CogVideoX pipelines: the step takes the timestep and the x0 of the step before."""
    old, back = None, None
    for timestep in scheduler.timesteps[first:]:
        sample, old = scheduler.step(net(sample, timestep), old, timestep, back, sample, **arguments)
        back = timestep
        yield SimpleNamespace(prev_sample=sample, pred_original_sample=old)


def _refusals(step):
    """`step`: (scheduler, array maker, timestep)."""
    two = {"num_inference_steps": 2}
    return (
        Refusal(
            match="num_inference_steps is 1001, expected at most num_train_timesteps = 1000",
            set_timesteps={"num_inference_steps": 1001},
        ),
        Refusal(
            match="step: no run is planned. Call set_timesteps first", step=lambda scheduler, a: step(scheduler, a, 5)
        ),
        Refusal(match="option 'beta_schedule' is 'foo'", options={"beta_schedule": "foo"}),
        Refusal(match="option 'timestep_spacing' is 'foo'", options={"timestep_spacing": "foo"}, set_timesteps=two),
        Refusal(
            match="option 'prediction_type' is 'foo'",
            options={"prediction_type": "foo"},
            set_timesteps=two,
            step=lambda scheduler, array: step(scheduler, array, scheduler.timesteps[0]),
        ),
    )


DECLARATIONS = [
    Declaration(
        name="CogVideoXDDIMScheduler",
        options=OPTIONS,
        begins=(0.0,),
        keep=_keep,
        refusals=_refusals(lambda scheduler, array, t: scheduler.step(array(), t, array())),
    ),
    Declaration(
        name="CogVideoXDPMScheduler",
        options=OPTIONS,
        begins=(0.0,),
        keep=_keep,
        loop=_dpm_loop,
        refusals=(
            *_refusals(lambda scheduler, array, t: scheduler.step(array(), None, t, None, array())),
            Refusal(
                match="got old_pred_original_sample without timestep_back",
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), array(), 500, None, array()),
            ),
        ),
    ),
]
