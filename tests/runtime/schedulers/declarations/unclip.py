"""UnCLIP's DDPM: option values."""

from scheduler_harness.declaration import Declaration, Refusal

LEARNED = "learned_range"


def _keep(case):
    # diffusers takes more steps than were trained, but repeats timesteps for them
    return case.set_timesteps["num_inference_steps"] <= case.options["num_train_timesteps"]


def _not_affine(case):
    if case.options["variance_type"] == LEARNED:
        return "variance_type"
    return "clip_sample" if case.options["clip_sample"] else None


def _loop(scheduler, sample, net, arguments, first):
    """As the unCLIP pipelines: the step takes the following timestep."""
    timesteps = scheduler.timesteps
    for i in range(first, len(timesteps)):
        following = timesteps[i + 1] if i + 1 < len(timesteps) else None
        output = net(scheduler.scale_model_input(sample, timesteps[i]), timesteps[i])
        result = scheduler.step(output, timesteps[i], sample, prev_timestep=following, **arguments)
        sample = result.prev_sample
        yield result


def _step(scheduler, array):
    scheduler.step(array(), scheduler.timesteps[0], array())


TWO = {"num_inference_steps": 2}

DECLARATIONS = [
    Declaration(
        name="UnCLIPScheduler",
        options={
            "num_train_timesteps": (1000, 50, 2000),
            "variance_type": ("fixed_small_log", LEARNED),
            "clip_sample": (True, False),
            "clip_sample_range": (1.0, 2.5),
            "prediction_type": ("epsilon", "sample"),
            "beta_schedule": ("squaredcos_cap_v2",),
        },
        runs=tuple({"num_inference_steps": steps} for steps in (2, 5, 20, 49, 50)),
        keep=_keep,
        not_affine=_not_affine,
        output_channels=lambda case: 6 if case.options["variance_type"] == LEARNED else 3,
        loop=_loop,
        refusals=(
            Refusal(
                match="num_inference_steps is 1, expected at least 2: its timesteps hold both",
                set_timesteps={"num_inference_steps": 1},
            ),
            Refusal(match="option 'beta_schedule' is 'linear'", options={"beta_schedule": "linear"}),
            Refusal(
                match="option 'prediction_type' is 'v_prediction'",
                options={"prediction_type": "v_prediction"},
                set_timesteps=TWO,
                step=_step,
            ),
            Refusal(
                match="option 'variance_type' is 'fixed_large'",
                options={"variance_type": "fixed_large"},
                set_timesteps=TWO,
                step=_step,
            ),
            Refusal(
                match="has 3 channels, expected 6 for a sample of 3: option 'variance_type'",
                options={"variance_type": LEARNED},
                set_timesteps=TWO,
                step=_step,
            ),
        ),
    )
]
