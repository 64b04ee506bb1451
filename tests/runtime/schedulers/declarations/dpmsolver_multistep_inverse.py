"""DPM-Solver multistep inverse: option values."""

import math

from scheduler_harness.declaration import Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]
PLACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
RULES = (*PLACED, "use_flow_sigmas")
KIND = ("algorithm_type", *RULES)


def _kinds():
    """Each algorithm with each rule; the SDE only with flow sigmas, else diffusers takes roots of negative numbers."""
    for algorithm in ("dpmsolver++", "dpmsolver", "deis", "sde-dpmsolver++", "sde-dpmsolver"):
        for chosen in range(-1, len(RULES)):
            if chosen == RULES.index("use_flow_sigmas") or not algorithm.startswith("sde"):
                yield algorithm, *(i == chosen for i in range(len(RULES)))


def _keep(case):
    options, run = case.options, case.set_timesteps
    algorithm, order = options["algorithm_type"], options["solver_order"]
    if algorithm in ("dpmsolver", "sde-dpmsolver") and options["prediction_type"] == "flow_prediction":
        return False  # refused
    if algorithm.startswith("sde") and order == 3:
        return False  # "sde-dpmsolver" is refused, with "sde-dpmsolver++" diffusers forgets to pass the noise on
    fractional = any(options[name] for name in RULES[1:])
    if fractional and run["num_inference_steps"] > 5:
        return False  # two of its timesteps are cut to the same integer: diffusers looks up the wrong one, or fails
    # a rule's last level repeats, "trailing" ends where it should go: h = 0, by which diffusers then divides
    repeats = options["timestep_spacing"] == "trailing" or any(options[name] for name in RULES)
    first_order = options["euler_at_final"] or (options["lower_order_final"] and run["num_inference_steps"] < 15)
    midpoint = order == 2 and options["solver_type"] != "heun"
    return not repeats or first_order or midpoint or order == 1


def _learned(case):
    return "learned" in str(case.options["variance_type"]) and case.options["prediction_type"] == "epsilon"


def _step(scheduler, array):
    scheduler.step(array(), scheduler.timesteps[0], array())


TWO = {"num_inference_steps": 2}

DECLARATIONS = [
    Declaration(
        name="DPMSolverMultistepInverseScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.0001, 0.00085),
            "beta_end": (0.02, 0.012),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            KIND: tuple(_kinds()),
            "solver_order": (2, 1, 3),
            "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
            "thresholding": (False, True),
            "dynamic_thresholding_ratio": (0.995, 0.8),
            "sample_max_value": (1.0, 1.5),
            "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
            "lower_order_final": (True, False),
            "euler_at_final": (False, True),
            "flow_shift": (1.0, 3.0),
            "lambda_min_clipped": (-math.inf, -5.1),
            "variance_type": (None, "learned", "learned_range", "fixed_small"),
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "steps_offset": (0, 1),
        },
        runs=tuple({"num_inference_steps": steps} for steps in (1, 2, 5, 15, 20, 50)),
        keep=_keep,
        not_affine=lambda case: (
            "variance_type" if _learned(case) else "thresholding" if case.options["thresholding"] else None
        ),
        output_channels=lambda case: 6 if _learned(case) else 3,
        at_least=60,
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
                match="option 'prediction_type' is 'flow_prediction' with algorithm_type 'dpmsolver', expected",
                options={"algorithm_type": "dpmsolver", "prediction_type": "flow_prediction"},
                set_timesteps=TWO,
                step=_step,
            ),
            Refusal(match="got nothing, expected exactly one of num_inference_steps", set_timesteps={}),
            Refusal(
                match="set_timesteps does not take 'timesteps'. It takes num_inference_steps",
                set_timesteps={"timesteps": [5, 9]},
            ),
            Refusal(match="step: no run is planned. Call set_timesteps first", step=_step),
        ),
    )
]
