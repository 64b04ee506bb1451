"""IPNDM: option values."""

from scheduler_harness.declaration import STEPS, Declaration, Refusal

BETAS = [0.99, 0.93, 0.8, 0.61, 0.44, 0.3, 0.12, 0.05, 0.0]


def _steepest(scheduler):
    """The reciprocal of the first alphas, which are near zero."""
    return float(1 / scheduler.alphas[scheduler.alphas > 0].min())


DECLARATIONS = [
    Declaration(
        name="IPNDMScheduler",
        options={"num_train_timesteps": (1000, 100, 37), "trained_betas": (None, BETAS, [1.0, 0.5, 0.25])},
        runs=tuple({"num_inference_steps": steps} for steps in (*STEPS, 3, 4)),
        magnification=_steepest,
        refusals=(
            Refusal(
                match="timestep 3.5 is not in the schedule",
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), 3.5, array()),
            ),
            Refusal(
                match="the run of 2 steps is over. Call set_timesteps again",
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: [scheduler.step(array(), t, array()) for t in [*scheduler.timesteps] * 2],
            ),
            Refusal(
                match="set_timesteps does not take 'timesteps'. It takes ", set_timesteps={"timesteps": [0.9, 0.5]}
            ),
        ),
    )
]
