"""MiniMax-H3: option values."""

from scheduler_harness.declaration import Declaration, Refusal

TWO = {"num_inference_steps": 3}


def _over(scheduler, array):
    for _ in range(4):
        scheduler.step(array(), scheduler.timesteps[0], array())


DECLARATIONS = [
    Declaration(
        name="MiniMaxH3Scheduler",
        # at 3e6 most levels become equal to one
        options={"shift": (12.0, 3.0, 1.0, 0.5, 3e6)},
        runs=(
            *({"num_inference_steps": steps} for steps in (2, 3, 5, 20, 50)),
            {"sigmas": [1.0, 0.7, 0.2, 0.0]},
            {"num_inference_steps": 9, "sigmas": [0.9, 0.5, 0.0]},
        ),
        refusals=(
            Refusal(match="option 'shift' is 0.0, expected more than 0", options={"shift": 0.0}),
            Refusal(match="got nothing, expected exactly one of num_inference_steps, sigmas", set_timesteps={}),
            Refusal(
                match="num_inference_steps is 1, expected at least 2: it counts the end of the run",
                set_timesteps={"num_inference_steps": 1},
            ),
            *(
                Refusal(match="expected at least two that descend to 0", set_timesteps={"sigmas": sigmas})
                for sigmas in ([0.0], [1.0, 0.5], [0.5, 0.5, 0.0], [0.5, 0.7, 0.0])
            ),
            Refusal(
                match="set_shift: shift is -1, expected more than 0", step=lambda scheduler, _: scheduler.set_shift(-1)
            ),
            Refusal(
                match="timestep is the integer 3, expected one of the scheduler's `timesteps`",
                set_timesteps=TWO,
                step=lambda scheduler, array: scheduler.step(array(), 3, array()),
            ),
            Refusal(
                match="timestep 3.5 is not in the schedule",
                set_timesteps=TWO,
                step=lambda scheduler, array: scheduler.step(array(), 3.5, array()),
            ),
            Refusal(match="the run of 2 steps is over. Call set_timesteps again", set_timesteps=TWO, step=_over),
        ),
    )
]
