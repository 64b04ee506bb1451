"""FlowMatchHeun: option values."""

from scheduler_harness.declaration import Declaration, Refusal

DECLARATIONS = [
    Declaration(
        name="FlowMatchHeunDiscreteScheduler",
        options={"num_train_timesteps": (1000, 100, 37), "shift": (1.0, 3.0, 0.7)},
        step={"s_churn": (0.0, 5.0), "s_tmin": (0.0, 0.3), "s_tmax": (float("inf"), 0.8), "s_noise": (1.0, 1.003)},
        refusals=(
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
            Refusal(
                match="the run of 3 steps is over",
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: [scheduler.step(array(), t, array()) for t in [*scheduler.timesteps] * 2],
            ),
            Refusal(match="set_timesteps does not take 'sigmas'. It takes ", set_timesteps={"sigmas": [1.0, 0.5]}),
        ),
    )
]
