"""SCM: option values."""

from scheduler_harness.declaration import Declaration, Refusal

CUSTOM = {"timesteps": [1.55, 1.1, 0.4, 0.05], "max_timesteps": None, "intermediate_timesteps": None}


def _loop(scheduler, sample, net, arguments, first):
    """As SANA-Sprint's pipeline: the last timestep is only where the run ends."""
    for timestep in scheduler.timesteps[first:-1]:
        result = scheduler.step(net(sample, timestep), timestep, sample, **arguments)
        sample = result.prev_sample
        yield result


DECLARATIONS = [
    Declaration(
        name="SCMScheduler",
        options={
            "num_train_timesteps": (1000, 100, 50),
            "prediction_type": ("trigflow",),
            "sigma_data": (0.5, 1.0, 0.25),
        },
        runs=(
            *({"num_inference_steps": steps, "intermediate_timesteps": None} for steps in (1, 2, 5, 20, 50)),
            {"num_inference_steps": 2},
            {"num_inference_steps": 2, "intermediate_timesteps": 0.9, "max_timesteps": 1.5},
            {"num_inference_steps": 4, "intermediate_timesteps": None, "max_timesteps": 1.4},
            {"num_inference_steps": 3, **CUSTOM},
            {"num_inference_steps": 2, "timesteps": [1.5, 0.8, 0.1], "max_timesteps": None},
        ),
        loop=_loop,
        refusals=(
            Refusal(
                match="num_inference_steps is 20, expected at most num_train_timesteps = 10",
                options={"num_train_timesteps": 10},
                set_timesteps={"num_inference_steps": 20, "intermediate_timesteps": None},
            ),
            Refusal(
                match="intermediate_timesteps is 1.3 for 3 steps, expected None unless there are two steps",
                set_timesteps={"num_inference_steps": 3},
            ),
            Refusal(
                match="got timesteps and max_timesteps = 1.5708, expected max_timesteps=None beside timesteps",
                set_timesteps={"num_inference_steps": 2, "timesteps": [1.5, 0.8, 0.0]},
            ),
            Refusal(
                match="got 4 timesteps for 2 steps, expected one more than steps",
                set_timesteps={"num_inference_steps": 2, **CUSTOM},
            ),
            Refusal(
                match="got neither timesteps nor max_timesteps, expected one of them",
                set_timesteps={"num_inference_steps": 2, "max_timesteps": None},
            ),
            Refusal(
                match="step: no run is planned. Call set_timesteps first",
                step=lambda scheduler, array: scheduler.step(array(), 1.5, array()),
            ),
            Refusal(
                match="timestep 0.0 is where the run ends, expected one of `model_timesteps`",
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), scheduler.timesteps[-1], array()),
            ),
            Refusal(
                match="option 'prediction_type' is 'foo', expected 'trigflow'",
                options={"prediction_type": "foo"},
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), scheduler.timesteps[0], array()),
            ),
        ),
    )
]
