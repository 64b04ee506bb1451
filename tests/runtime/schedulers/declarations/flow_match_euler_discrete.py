"""FlowMatchEuler: option values."""

from scheduler_harness.declaration import STEPS, Declaration, Refusal

MU = {"mu": 0.8}


def _keep(case):
    options, run = case.options, case.set_timesteps
    if options["use_dynamic_shifting"] and "mu" not in run:
        return False  # refused
    # one sigma, which is one: diffusers stretches by 0 / 0
    return not (options["shift_terminal"] and run.get("num_inference_steps") == 1)


DECLARATIONS = [
    Declaration(
        name="FlowMatchEulerDiscreteScheduler",
        options={
            "num_train_timesteps": (1000, 100),
            "shift": (1.0, 3.0),
            "use_dynamic_shifting": (False, True),
            "base_shift": (0.5, None),
            "max_shift": (1.15, None),
            "base_image_seq_len": (256, 64),
            "max_image_seq_len": (4096, 1024),
            "invert_sigmas": (False, True),
            "shift_terminal": (None, 0.1),
            ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"): (
                (False, False, False),
                (True, False, False),
                (False, True, False),
                (False, False, True),
            ),
            "time_shift_type": ("exponential", "linear"),
            "stochastic_sampling": (False, True),
        },
        runs=(
            *({"num_inference_steps": steps, **MU} for steps in STEPS),
            {"num_inference_steps": 7},
            {"sigmas": [1.0, 0.75, 0.5, 0.2], **MU},
            {"timesteps": [95, 60.5, 30, 5], **MU},
            {"num_inference_steps": 3, "timesteps": [99, 50, 9], "sigmas": [1.0, 0.6, 0.3], **MU},
        ),
        keep=_keep,
        at_least=60,
        refusals=(
            Refusal(
                match="options use_karras_sigmas and use_exponential_sigmas are both true, expected at most one of",
                options={"use_karras_sigmas": True, "use_exponential_sigmas": True},
            ),
            Refusal(
                match="option 'time_shift_type' is 'foo', expected 'exponential' or 'linear'",
                options={"time_shift_type": "foo"},
            ),
            Refusal(
                match="set_timesteps needs mu, because the option 'use_dynamic_shifting' is true",
                options={"use_dynamic_shifting": True},
                set_timesteps={"num_inference_steps": 2},
            ),
            Refusal(match="got nothing, expected exactly one of num_inference_steps", set_timesteps={}),
            Refusal(
                match=r"got different numbers of steps \(timesteps: 2, sigmas: 1\), expected the same",
                set_timesteps={"timesteps": [9, 5], "sigmas": [0.9]},
            ),
            Refusal(
                match=r"got different numbers of steps \(sigmas: 1, num_inference_steps: 2\), expected the same",
                set_timesteps={"num_inference_steps": 2, "sigmas": [0.9]},
            ),
            Refusal(
                match="the last sigma is 0.0, expected more than zero: the option 'use_exponential_sigmas'",
                options={"use_exponential_sigmas": True},
                set_timesteps={"sigmas": [1.0, 0.0]},
            ),
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
        ),
    )
]
