"""DPM-Solver++ for the SDE: option values."""

from scheduler_harness.declaration import STEPS, Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]
PLACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
TWO = {"num_inference_steps": 2}


def _step(scheduler, array):
    scheduler.step(array(), scheduler.timesteps[0], array())


DECLARATIONS = [
    Declaration(
        name="DPMSolverSDEScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.00085, 0.0001),
            "beta_end": (0.012, 0.02),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            "prediction_type": ("epsilon", "v_prediction"),
            PLACED: ((False, False, False), (True, False, False), (False, True, False), (False, False, True)),
            "noise_sampler_seed": (0, 7),
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "steps_offset": (0, 1),
        },
        runs=(
            *({"num_inference_steps": steps} for steps in STEPS),
            {"num_inference_steps": 4, "num_train_timesteps": 60},
        ),
        step={"s_noise": (1.0, 0.5)},
        not_affine=lambda case: "noise from a Brownian path",
        # times of the path are rounded to millionths, where the last bit of a float32 logarithm or exponential counts,
        # and a millionth more of a path is a thousandth of noise: test_dpmsolver_sde.py
        rounded_steps=True,
        # levels of tens of thousands are multiples of 1/256, some of which lie right between two millionths: there the
        # last bit of exp(log sigma) counts in float64 too
        exact_tolerance=1e-5,
        refusals=(
            Refusal(
                match="options use_karras_sigmas and use_exponential_sigmas are both true, expected at most one of",
                options={"use_karras_sigmas": True, "use_exponential_sigmas": True},
            ),
            *(
                Refusal(match=f"option '{name}' is 'foo'", options={name: "foo"}, set_timesteps=TWO, step=_step)
                for name in ("beta_schedule", "prediction_type", "timestep_spacing")
            ),
            Refusal(
                match="option 'prediction_type' is 'sample', expected",
                options={"prediction_type": "sample"},
                set_timesteps=TWO,
                step=_step,
            ),
            Refusal(match="got nothing, expected exactly one of num_inference_steps", set_timesteps={}),
            Refusal(
                match="timestep 3.5 is not in the schedule",
                set_timesteps=TWO,
                step=lambda scheduler, array: scheduler.step(array(), 3.5, array()),
            ),
        ),
    )
]
