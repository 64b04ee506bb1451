"""The consistency decoder: it has hardly any options, and one run."""

from scheduler_harness.declaration import Declaration, Refusal

DECLARATIONS = [
    Declaration(
        name="ConsistencyDecoderScheduler",
        options={"num_train_timesteps": (1024, 1009, 2000), "sigma_data": (0.5, 1.0, 0.2)},
        runs=({"num_inference_steps": 2},),
        at_least=0,
        refusals=(
            *(
                Refusal(
                    match=f"num_inference_steps is {steps}, expected 2: consistency decoders run two steps",
                    set_timesteps={"num_inference_steps": steps},
                )
                for steps in (1, 3)
            ),
            Refusal(
                match="option 'num_train_timesteps' is 1000, expected more than 1008",
                options={"num_train_timesteps": 1000},
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), scheduler.timesteps[0], array()),
            ),
            Refusal(
                match="timestep 100 is not in the schedule, expected one of",
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), 100, array()),
            ),
        ),
    )
]
