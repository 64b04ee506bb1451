"""DPM-Solver multistep: option values."""

import math

from scheduler_harness.declaration import STEPS, Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]
PLACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
RULES = (*PLACED, "use_lu_lambdas", "use_flow_sigmas")
ALGORITHM = ("algorithm_type", "final_sigmas_type")


def _one_rule():
    """None of the rules, one of them, or Karras over Lu, which diffusers allows; flow sigmas exclude the others."""
    rows = [tuple(i == chosen for i in range(len(RULES))) for chosen in range(-1, len(RULES))]
    return [*rows, (True, False, False, True, False)]


def _keep(case):
    options, run = case.options, case.set_timesteps
    ruled = any(options[name] for name in RULES)
    if ("timesteps" in run and ruled) or ("mu" in run and not options["use_dynamic_shifting"]):
        return False  # refused
    if not options["algorithm_type"].endswith("++") and options["prediction_type"] == "flow_prediction":
        return False  # refused
    if options["algorithm_type"] == "sde-dpmsolver" and options["solver_order"] == 3:
        return False  # no formula: an unbound variable in diffusers
    return _last_step_is_finite(options, run)


def _last_step_is_finite(options, run):
    """A rule's last level is sigma_min, so the step to a final sigma_min has h = 0, by which diffusers then divides."""
    steps = run.get("num_inference_steps", 0)
    if options["use_lu_lambdas"] and options["algorithm_type"].startswith("sde"):
        # rounding may put the repeated level above the one before: a variance below zero
        return options["final_sigmas_type"] == "zero"
    repeats = options["final_sigmas_type"] == "sigma_min" and any(options[name] for name in RULES[:-1])
    first_order = options["euler_at_final"] or (options["lower_order_final"] and steps < 15)
    midpoint = options["solver_order"] == 2 and options["solver_type"] != "heun"
    return not repeats or first_order or midpoint or options["solver_order"] == 1


def _step(scheduler, array):
    scheduler.step(array(), scheduler.timesteps[0], array())


TWO = {"num_inference_steps": 2}

DECLARATIONS = [
    Declaration(
        name="DPMSolverMultistepScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.0001, 0.00085),
            "beta_end": (0.02, 0.012),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            ALGORITHM: (
                ("dpmsolver++", "zero"),
                ("dpmsolver++", "sigma_min"),
                ("sde-dpmsolver++", "zero"),
                ("sde-dpmsolver++", "sigma_min"),
                ("dpmsolver", "sigma_min"),
                ("sde-dpmsolver", "sigma_min"),
            ),
            "solver_order": (2, 1, 3),
            "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
            "thresholding": (False, True),
            "dynamic_thresholding_ratio": (0.995, 0.8),
            "sample_max_value": (1.0, 1.5),
            "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
            "lower_order_final": (True, False),
            "euler_at_final": (False, True),
            RULES: _one_rule(),
            "flow_shift": (1.0, 3.0),
            "lambda_min_clipped": (-math.inf, -5.1),
            "variance_type": (None, "learned", "learned_range", "fixed_small"),
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "steps_offset": (0, 1),
            "rescale_betas_zero_snr": (False, True),
            "use_dynamic_shifting": (False, True),
            "time_shift_type": ("exponential",),
        },
        runs=(
            *({"num_inference_steps": steps} for steps in (*STEPS, 14, 15)),
            {"timesteps": [90, 70, 40, 10, 1]},
            {"num_inference_steps": 6, "mu": 0.7},
        ),
        keep=_keep,
        not_affine=lambda case: (
            "variance_type"
            if "learned" in str(case.options["variance_type"]) and case.options["prediction_type"] == "epsilon"
            else "thresholding"
            if case.options["thresholding"]
            else None
        ),
        output_channels=lambda case: (
            6 if "learned" in str(case.options["variance_type"]) and case.options["prediction_type"] == "epsilon" else 3
        ),
        at_least=80,
        refusals=(
            Refusal(
                match="options use_karras_sigmas and use_exponential_sigmas are both true, expected at most one of",
                options={"use_karras_sigmas": True, "use_exponential_sigmas": True},
            ),
            *(
                Refusal(
                    match=f"option 'final_sigmas_type' is 'zero' with algorithm_type '{kind}'",
                    options={"algorithm_type": kind},
                )
                for kind in ("dpmsolver", "sde-dpmsolver")
            ),
            Refusal(match="option 'algorithm_type' is 'deis', expected", options={"algorithm_type": "deis"}),
            *(
                Refusal(match=f"option '{name}' is 'foo'", options={name: "foo"}, set_timesteps=TWO, step=_step)
                for name in ("beta_schedule", "algorithm_type", "solver_type", "prediction_type", "timestep_spacing")
            ),
            Refusal(
                match="option 'final_sigmas_type' is 'foo'", options={"final_sigmas_type": "foo"}, set_timesteps=TWO
            ),
            Refusal(
                match="option 'prediction_type' is 'flow_prediction' with algorithm_type 'dpmsolver', expected",
                options={
                    "algorithm_type": "dpmsolver",
                    "prediction_type": "flow_prediction",
                    "final_sigmas_type": "sigma_min",
                },
                set_timesteps=TWO,
                step=_step,
            ),
            *(
                Refusal(
                    match=f"got timesteps, but the option '{name}' computes them",
                    options={name: True},
                    set_timesteps={"timesteps": [9, 5]},
                )
                for name in RULES
            ),
            Refusal(match="got nothing, expected exactly one of num_inference_steps, timesteps", set_timesteps={}),
            Refusal(
                match="got num_inference_steps and timesteps, expected exactly one of",
                set_timesteps={"num_inference_steps": 2, "timesteps": [9, 5]},
            ),
            Refusal(
                match="got mu = 0.5, expected none unless the option 'use_dynamic_shifting' is true",
                set_timesteps={"num_inference_steps": 2, "mu": 0.5},
            ),
            Refusal(match="step: no run is planned. Call set_timesteps first", step=_step),
        ),
    )
]
