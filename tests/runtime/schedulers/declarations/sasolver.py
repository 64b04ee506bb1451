"""SA-Solver: option values."""

import math

from scheduler_harness.declaration import Declaration, Refusal

BETAS = [0.001 * 1.05**i for i in range(100)]
PLACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
RULES = (*PLACED, "use_flow_sigmas")
SOLVER = ("algorithm_type", "prediction_type", "thresholding")


def _one_rule():
    return [tuple(i == chosen for i in range(len(RULES))) for chosen in range(-1, len(RULES))]


def _solvers():
    """On epsilon no flow prediction, and no thresholding: there diffusers indexes by a timestep that is missing."""
    for prediction in ("epsilon", "sample", "v_prediction", "flow_prediction"):
        yield "data_prediction", prediction, False
        yield "data_prediction", prediction, True
        if prediction != "flow_prediction":
            yield "noise_prediction", prediction, False


def _keep(case):
    # at fourth order on epsilon the steepest levels are beyond stability: the sample grows a thousandfold, and with it
    # every rounding
    options = case.options
    steep = options["beta_schedule"] == "squaredcos_cap_v2" and options["trained_betas"] is None
    return not (steep and options["predictor_order"] == 4 and options["algorithm_type"] == "noise_prediction")


def _powers_of_lambda(scheduler):
    """Diffusers integrates powers of lambda itself, up to 10^3, which cancel; in float64 the two agree.

    The fourth order divides by the cube of the distances of lambda besides. At the second order diffusers is up to
    1.9e-4 from its own float64 run, three times as far as ours.
    """
    order = max(scheduler.config.predictor_order, scheduler.config.corrector_order)
    return {1: 1.0, 2: 2.0, 3: 1000.0, 4: 5000.0}[order]


def _not_affine(case):
    if "learned" in str(case.options["variance_type"]) and case.options["prediction_type"] == "epsilon":
        return "variance_type"
    return "thresholding" if case.options["thresholding"] else None


def _step(scheduler, array):
    scheduler.step(array(), scheduler.timesteps[0], array())


TWO = {"num_inference_steps": 2}

DECLARATIONS = [
    Declaration(
        name="SASolverScheduler",
        options={
            ("num_train_timesteps", "trained_betas"): ((1000, None), (100, None), (2000, None), (100, BETAS)),
            "beta_start": (0.0001, 0.00085),
            "beta_end": (0.02, 0.012),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            "predictor_order": (2, 1, 3, 4),
            "corrector_order": (2, 1, 3, 4),
            # a function cannot be written into a config: `test_sasolver.py`
            "tau_func": (None,),
            SOLVER: tuple(_solvers()),
            "dynamic_thresholding_ratio": (0.995, 0.8),
            "sample_max_value": (1.0, 1.5),
            "lower_order_final": (True, False),
            RULES: _one_rule(),
            "flow_shift": (1.0, 3.0),
            "lambda_min_clipped": (-math.inf, -5.1),
            # of an output without a variance: with one, diffusers draws noise of its shape, which does not fit
            "variance_type": (None, "learned", "learned_range", "fixed_small"),
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "steps_offset": (0, 1),
        },
        runs=tuple({"num_inference_steps": steps} for steps in (1, 2, 5, 20, 50)),
        keep=_keep,
        magnification=_powers_of_lambda,
        not_affine=_not_affine,
        at_least=60,
        refusals=(
            Refusal(
                match="options use_karras_sigmas and use_exponential_sigmas are both true, expected at most one of",
                options={"use_karras_sigmas": True, "use_exponential_sigmas": True},
            ),
            *(
                Refusal(match=f"option '{name}' is 'foo'", options={name: "foo"}, set_timesteps=TWO, step=_step)
                for name in ("beta_schedule", "algorithm_type", "tau_func", "prediction_type", "timestep_spacing")
            ),
            Refusal(
                match="option 'prediction_type' is 'flow_prediction' with algorithm_type 'noise_prediction', expected",
                options={"algorithm_type": "noise_prediction", "prediction_type": "flow_prediction"},
                set_timesteps=TWO,
                step=_step,
            ),
            Refusal(match="got nothing, expected exactly one of num_inference_steps", set_timesteps={}),
            Refusal(
                match="set_timesteps does not take 'timesteps'. It takes num_inference_steps",
                set_timesteps={"timesteps": [9, 5]},
            ),
            Refusal(match="step: no run is planned. Call set_timesteps first", step=_step),
        ),
    )
]
