"""DEIS multistep: option values."""

from scheduler_harness.declaration import Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]
PLACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
RULES = (*PLACED, "use_flow_sigmas")


def _one_rule():
    return [tuple(i == chosen for i in range(len(RULES))) for chosen in range(-1, len(RULES))]


def _step(scheduler, array):
    scheduler.step(array(), scheduler.timesteps[0], array())


TWO = {"num_inference_steps": 2}

DECLARATIONS = [
    Declaration(
        name="DEISMultistepScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.0001, 0.00085),
            "beta_end": (0.02, 0.012),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            "solver_order": (2, 1, 3),
            "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
            "thresholding": (False, True),
            "dynamic_thresholding_ratio": (0.995, 0.8),
            "sample_max_value": (1.0, 1.5),
            "algorithm_type": ("deis", "dpmsolver", "dpmsolver++"),
            "solver_type": ("logrho", "midpoint", "heun", "bh1", "bh2"),
            "lower_order_final": (True, False),
            RULES: _one_rule(),
            "flow_shift": (1.0, 3.0),
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "steps_offset": (0, 1),
            "use_dynamic_shifting": (False, True),
            "time_shift_type": ("exponential",),
        },
        runs=(
            *({"num_inference_steps": steps} for steps in (1, 2, 5, 14, 15, 20, 50)),
            {"num_inference_steps": 6, "mu": 0.7},
        ),
        # refused
        keep=lambda case: "mu" not in case.set_timesteps or case.options["use_dynamic_shifting"],
        # a clean sample is turned into noise and back, which rounds twice more
        magnification=lambda scheduler: 4.0,
        not_affine=lambda case: "thresholding" if case.options["thresholding"] else None,
        at_least=50,
        refusals=(
            Refusal(
                match="options use_karras_sigmas and use_exponential_sigmas are both true, expected at most one of",
                options={"use_karras_sigmas": True, "use_exponential_sigmas": True},
            ),
            *(
                Refusal(match=f"option '{name}' is 'foo'", options={name: "foo"}, set_timesteps=TWO, step=_step)
                for name in ("beta_schedule", "algorithm_type", "solver_type", "prediction_type", "timestep_spacing")
            ),
            Refusal(
                match="option 'algorithm_type' is 'sde-dpmsolver\\+\\+', expected 'deis'",
                options={"algorithm_type": "sde-dpmsolver++"},
            ),
            Refusal(match="got nothing, expected exactly one of num_inference_steps", set_timesteps={}),
            Refusal(
                match="set_timesteps does not take 'timesteps'. It takes num_inference_steps, mu",
                set_timesteps={"timesteps": [9, 5]},
            ),
            Refusal(
                match="got mu = 0.5, expected none unless the option 'use_dynamic_shifting' is true",
                set_timesteps={"num_inference_steps": 2, "mu": 0.5},
            ),
            Refusal(match="step: no run is planned. Call set_timesteps first", step=_step),
        ),
    )
]
