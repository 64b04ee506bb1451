"""FlowMapEuler: option values."""

from scheduler_harness.declaration import STEPS, Declaration, Refusal

DECLARATIONS = [
    Declaration(
        name="FlowMapEulerDiscreteScheduler",
        options={"num_train_timesteps": (1000, 100, 37), "shift": (1.0, 5.0, 0.7)},
        runs=(
            *({"num_inference_steps": steps} for steps in (*STEPS, 3, 37)),
            {"sigmas": [1.0, 0.75, 0.5, 0.2]},
            {"timesteps": [36, 20.5, 11, 5]},
            {"num_inference_steps": 3, "timesteps": [99, 50, 9], "sigmas": [1.0, 0.6, 0.3]},
        ),
        # into the schedule, to its end, and outside of it
        step={"r_timestep": (None, 4.25, 0.0)},
        refusals=(
            Refusal(match="got nothing, expected exactly one of num_inference_steps", set_timesteps={}),
            Refusal(
                match=r"got different numbers of steps \(timesteps: 2, sigmas: 1\), expected the same",
                set_timesteps={"timesteps": [9, 5], "sigmas": [0.9]},
            ),
            Refusal(
                match=r"got different numbers of steps \(timesteps: 2, num_inference_steps: 3\), expected the same",
                set_timesteps={"timesteps": [9, 5], "num_inference_steps": 3},
            ),
            Refusal(
                match="timestep 3.5 is not in the schedule, so that the next one is not known: pass r_timestep",
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), 3.5, array()),
            ),
        ),
    )
]
