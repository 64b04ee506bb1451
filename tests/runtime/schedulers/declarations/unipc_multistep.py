"""UniPC multistep: option values."""

import numpy as np
from scheduler_harness.declaration import Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]
PLACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
RULES = (*PLACED, "use_flow_sigmas")
LEVELS = (*RULES, "sigma_min", "sigma_max", "shift_terminal")
SOLVER = ("predict_x0", "prediction_type", "final_sigmas_type")
SHIFTING = ("use_dynamic_shifting", "time_shift_type", "flow_shift")


def _levels():
    """Each rule, with and without the options that only it reads."""
    return (
        (False, False, False, False, None, None, None),
        (True, False, False, False, None, None, None),
        (False, True, False, False, 0.05, None, None),
        (False, False, True, False, None, 9.0, None),
        (False, False, False, True, None, None, None),
        (False, False, False, True, None, None, 0.1),
        (True, False, False, True, 0.05, 9.0, None),
        (False, True, False, True, 0.05, 0.9, None),
    )


def _solvers():
    """On x0 everything; on epsilon no flow prediction, and no end at zero, where diffusers gives NaN."""
    for prediction in ("epsilon", "sample", "v_prediction", "flow_prediction"):
        yield True, prediction, "zero"
        yield True, prediction, "sigma_min"
        if prediction != "flow_prediction":
            yield False, prediction, "sigma_min"


def _keep(case):
    options, run = case.options, case.set_timesteps
    ruled = any(options[name] for name in PLACED)
    if "sigmas" in run and (ruled or not options["use_flow_sigmas"]):
        return False  # refused, with a rule by us alone
    if options["use_dynamic_shifting"] and "mu" not in run:
        return False  # refused
    whole_flow = options["use_flow_sigmas"] and not ruled
    if whole_flow and not options["predict_x0"]:
        return (
            False  # starts at alpha = 1e-6, by which float32 is then divided: nothing is left of it in either library
        )
    if not options["predict_x0"] and options["solver_order"] == 4 and options["rescale_betas_zero_snr"]:
        return False  # from sigma in the thousands beyond stability: every rounding grows threefold with each step
    if options["shift_terminal"] and run.get("num_inference_steps") == 1:
        return False  # diffusers stretches a single level by 0 / 0
    if options["final_sigmas_type"] == "zero" and options["solver_type"] == "bh1":
        return False  # NaN in diffusers: B is infinite at the last step, and multiplied with 0
    if options["lower_order_final"] or options["solver_order"] == 1:
        return True
    # the last step then divides by an infinite h at sigma zero, or by h = 0 at a repeated level
    return options["final_sigmas_type"] == "sigma_min" and not (ruled or whole_flow)


def _growth(scheduler):
    """On epsilon differences of neighbouring outputs are multiplied by sigma, which zero SNR starts at 4096."""
    if scheduler.config.predict_x0:
        return 1.0
    return 1024.0 if scheduler.config.rescale_betas_zero_snr else 16.0


def _step(scheduler, array):
    scheduler.step(array(), scheduler.timesteps[0], array())


TWO = {"num_inference_steps": 2}

DECLARATIONS = [
    Declaration(
        name="UniPCMultistepScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.0001, 0.00085),
            "beta_end": (0.02, 0.012),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            "solver_order": (2, 1, 3, 4),
            SOLVER: tuple(_solvers()),
            "thresholding": (False, True),
            "dynamic_thresholding_ratio": (0.995, 0.8),
            "sample_max_value": (1.0, 1.5),
            "solver_type": ("bh2", "bh1", "midpoint", "heun", "logrho"),
            "lower_order_final": (True, False),
            "disable_corrector": ([], [0, 2]),
            "solver_p": (None,),
            LEVELS: _levels(),
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "steps_offset": (0, 1),
            "rescale_betas_zero_snr": (False, True),
            SHIFTING: ((False, "exponential", 1.0), (False, "exponential", 3.0), (True, "exponential", 1.0)),
        },
        runs=(
            *({"num_inference_steps": steps} for steps in (1, 2, 5, 20)),
            {"num_inference_steps": 6, "mu": 0.7},
            {"num_inference_steps": 50, "mu": 0.7},
            {"sigmas": np.array([1.0, 0.8, 0.7, 0.3]), "mu": 0.3},
        ),
        keep=_keep,
        # a clean sample is turned into noise and back, and order four solves for weights that cancel
        magnification=_growth,
        not_affine=lambda case: "thresholding" if case.options["thresholding"] and case.options["predict_x0"] else None,
        at_least=60,
        refusals=(
            Refusal(
                match="options use_karras_sigmas and use_exponential_sigmas are both true, expected at most one of",
                options={"use_karras_sigmas": True, "use_exponential_sigmas": True},
            ),
            *(
                Refusal(match=f"option '{name}' is 'foo'", options={name: "foo"}, set_timesteps=TWO, step=_step)
                for name in (
                    "beta_schedule",
                    "solver_type",
                    "prediction_type",
                    "timestep_spacing",
                    "final_sigmas_type",
                    "solver_p",
                )
            ),
            Refusal(
                match="option 'solver_order' is 0, expected at least 1",
                options={"solver_order": 0},
                set_timesteps=TWO,
                step=_step,
            ),
            Refusal(
                match="option 'shift_terminal' is 0.1 without 'use_flow_sigmas', whose levels it stretches",
                options={"shift_terminal": 0.1},
            ),
            Refusal(
                match="option 'prediction_type' is 'flow_prediction' with 'predict_x0' false, expected 'epsilon'",
                options={"predict_x0": False, "prediction_type": "flow_prediction"},
                set_timesteps=TWO,
                step=_step,
            ),
            Refusal(match="got nothing, expected exactly one of num_inference_steps, sigmas", set_timesteps={}),
            Refusal(
                match="set_timesteps needs mu, because the option 'use_dynamic_shifting' is true",
                options={"use_dynamic_shifting": True},
                set_timesteps=TWO,
            ),
            Refusal(
                match="set_timesteps takes sigmas only with the option 'use_flow_sigmas'. Turn it on",
                set_timesteps={"sigmas": np.array([0.9, 0.5])},
            ),
            Refusal(match="step: no run is planned. Call set_timesteps first", step=_step),
        ),
    )
]
