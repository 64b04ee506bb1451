"""DPM-Solver singlestep: option values."""

import math

from scheduler_harness.declaration import Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]
PLACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
RULES = (*PLACED, "use_flow_sigmas")


def _one_rule():
    return [tuple(i == chosen for i in range(len(RULES))) for chosen in range(-1, len(RULES))]


def _keep(case):
    options, run = case.options, case.set_timesteps
    if "timesteps" in run and any(options[name] for name in PLACED):
        return False  # refused
    if "mu" in run and not options["use_dynamic_shifting"]:
        return False  # refused
    if options["algorithm_type"] != "dpmsolver":
        return True
    if options["final_sigmas_type"] == "zero" or options["prediction_type"] == "flow_prediction":
        return False  # refused
    # diffusers indexes its whole schedule with a timestep that is never passed, and gets shapes that do not fit
    return not options["thresholding"]


def _block_growth(scheduler):
    """The factor by which a block of calls raises alpha / sigma, and with it the rounding at its start.

    Each call of a block goes back to the block's first sample, in which the image may be a thousandth. At most 300.
    """
    sigmas = scheduler.sigmas[scheduler.sigmas > 0].double()
    noise = sigmas / (1 - sigmas) if scheduler.config.use_flow_sigmas else sigmas
    order = min(scheduler.config.solver_order, len(noise) - 1)
    return min(300.0, float((noise[: len(noise) - order] / noise[order:]).max()))


def _step(scheduler, array):
    scheduler.step(array(), scheduler.timesteps[0], array())


def _learned(case):
    return "learned" in str(case.options["variance_type"]) and case.options["prediction_type"] == "epsilon"


TWO = {"num_inference_steps": 2}

DECLARATIONS = [
    Declaration(
        name="DPMSolverSinglestepScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.0001, 0.00085),
            "beta_end": (0.02, 0.012),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "dpmsolver"),
            "final_sigmas_type": ("zero", "sigma_min"),
            "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
            "solver_order": (2, 1, 3),
            "thresholding": (False, True),
            "dynamic_thresholding_ratio": (0.995, 0.8),
            "sample_max_value": (1.0, 1.5),
            "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
            "lower_order_final": (False, True),
            RULES: _one_rule(),
            "flow_shift": (1.0, 3.0),
            "lambda_min_clipped": (-math.inf, -5.1),
            "variance_type": (None, "learned", "learned_range", "fixed_small"),
            "use_dynamic_shifting": (False, True),
            "time_shift_type": ("exponential",),
        },
        runs=(
            *({"num_inference_steps": steps} for steps in (1, 2, 3, 5, 6, 20, 50)),
            {"timesteps": [90, 70, 40, 10, 1]},
            {"num_inference_steps": 6, "mu": 0.7},
        ),
        keep=_keep,
        magnification=_block_growth,
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
            Refusal(
                match="option 'final_sigmas_type' is 'zero' with algorithm_type 'dpmsolver', which divides by",
                options={"algorithm_type": "dpmsolver"},
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
                Refusal(match=f"option '{name}' is 'foo'", options={name: "foo"}, set_timesteps=TWO, step=_step)
                for name in ("beta_schedule", "algorithm_type", "solver_type", "prediction_type", "final_sigmas_type")
            ),
            Refusal(match="option 'solver_order' is 4, expected 1, 2 or 3", options={"solver_order": 4}),
            Refusal(match="option 'algorithm_type' is 'deis', expected", options={"algorithm_type": "deis"}),
            *(
                Refusal(
                    match=f"got timesteps, but the option '{name}' computes them",
                    options={name: True},
                    set_timesteps={"timesteps": [9, 5]},
                )
                for name in PLACED
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
