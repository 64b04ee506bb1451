"""Helios: option values."""

from types import SimpleNamespace

import numpy as np
from scheduler_harness.declaration import Declaration, Refusal

RANGES = ([0, 1 / 3, 2 / 3, 1], [0, 0.5, 0.6, 1.0])
STAGES = {
    ("num_train_timesteps", "stages", "stage_range"): (
        (1000, 3, RANGES[0]),
        (1000, 3, RANGES[1]),
        (500, 3, RANGES[0]),
        (1000, 2, RANGES[1]),
        (1000, 1, RANGES[0]),
        (500, 1, RANGES[0]),
    ),
    ("shift", "use_dynamic_shifting"): ((1.0, False), (3.0, False), (1.0, True)),
    "gamma": (1 / 3, 0.5),
    "time_shift_type": ("exponential", "linear"),
}
SIGMAS = np.linspace(0.999, 0.0, 8)[:-1]
RUNS = (
    *({"num_inference_steps": 1, "stage_index": stage, "mu": 0.8} for stage in (0, 1)),
    *({"num_inference_steps": steps, "stage_index": 0, "mu": 0.8} for steps in (2, 5, 20, 50)),
    *({"num_inference_steps": 10, "stage_index": stage, "mu": 1.2} for stage in (1, 2)),
    *({"num_inference_steps": steps, "mu": 0.8} for steps in (1, 2, 7, 20, 50)),
    {"num_inference_steps": 7, "sigmas": SIGMAS, "mu": 0.8},
    {"num_inference_steps": 7, "sigmas": SIGMAS.astype(np.float32), "mu": 0.5},
)


def _fits(case):
    """Keep arguments that belong to the number of stages; diffusers ignores or misses the others."""
    stage, stages = case.set_timesteps.get("stage_index"), case.options["stages"]
    return stage is None if stages == 1 else stage is not None and stage < stages


def _dmd_loop(scheduler, sample, net, arguments, first):
    """As the Helios pipelines on videos (here of one frame): every step takes the first sample and its number."""
    sample = sample[:, :, None]
    start = sample
    for i, timestep in enumerate(scheduler.timesteps):
        result = scheduler.step(
            net(sample, timestep),
            timestep,
            sample,
            cur_sampling_step=i,
            dmd_noisy_tensor=start,
            dmd_sigmas=scheduler.sigmas,
            dmd_timesteps=scheduler.timesteps,
            all_timesteps=scheduler.timesteps,
        )
        sample = result.prev_sample
        yield SimpleNamespace(prev_sample=sample[:, :, 0])


def _stage_refusals():
    two = {"num_inference_steps": 2}
    return (
        Refusal(match="option 'stage_range' is .*, expected the 4 ends of 3 stages", options={"stage_range": [0, 1]}),
        Refusal(
            match="option 'shift' is 2.0 with 'use_dynamic_shifting', expected 1",
            options={"shift": 2.0, "use_dynamic_shifting": True, "stages": 1},
            set_timesteps={**two, "mu": 1.0},
        ),
        Refusal(
            match="set_timesteps needs mu, because the option 'use_dynamic_shifting' is true",
            options={"use_dynamic_shifting": True, "stages": 1},
            set_timesteps=two,
        ),
        *(
            Refusal(
                match=f"stage_index is {stage}, expected 0 to 2: the option 'stages' is 3",
                set_timesteps={**two, "stage_index": stage},
            )
            for stage in (None, 3)
        ),
    )


def _keep(case):
    options = case.options
    if not _fits(case):
        return False
    if options["scheduler_type"] == "euler":
        return True
    if options["prediction_type"] == "flow_prediction" and not options["predict_x0"]:
        return False  # refused
    # a run from sigma = 1 starts at a signal of zero, whose logarithm diffusers multiplies with zero
    starts_at_one = options["stages"] == 1 and "sigmas" not in case.set_timesteps
    # and without flow sigmas one that ends at sigma = 0 has the same there, unless the last step is of first order
    # and on x0 with "bh2"
    ends_at_zero = not options["use_flow_sigmas"] and (
        not options["lower_order_final"] or not options["predict_x0"] or options["solver_type"] == "bh1"
    )
    return not (starts_at_one or ends_at_zero)


def _growth(scheduler):
    """On epsilon a step multiplies the sample, and what was rounded in it, with alpha' / alpha."""
    if scheduler.config.get("predict_x0", True):
        return 1.0
    sigmas = scheduler.sigmas.double()
    alphas = 1 - sigmas if scheduler.config.use_flow_sigmas else 1 / (1 + sigmas**2) ** 0.5
    return max(1.0, float((alphas[1:] / alphas[:-1]).max()))


def _over(scheduler, array):
    for _ in range(3):
        scheduler.step(array(), scheduler.timesteps[0], array())


ONE = {"stages": 1}
EULER = {"stages": 1, "scheduler_type": "euler"}
TWO = {"num_inference_steps": 2}

DECLARATIONS = [
    Declaration(
        name="HeliosDMDScheduler",
        options={**STAGES, "prediction_type": ("flow_prediction",), "use_flow_sigmas": (True,)},
        runs=(
            *RUNS,
            {"num_inference_steps": 2, "stage_index": 0, "mu": 0.8, "is_amplify_first_chunk": True},
            {"num_inference_steps": 3, "mu": 0.8, "is_amplify_first_chunk": True},
        ),
        begins=(0.0,),
        keep=_fits,
        lacks=("add_noise",),
        loop=_dmd_loop,
        at_least=52,
        refusals=(
            *_stage_refusals(),
            Refusal(
                match="dmd_noisy_tensor is None, expected the sample that the stage started from: step 0 of 2",
                options={"stages": 1},
                set_timesteps={"num_inference_steps": 2},
                step=lambda scheduler, array: scheduler.step(array(), scheduler.timesteps[0], array()),
            ),
        ),
    ),
    Declaration(
        name="HeliosScheduler",
        options={
            **STAGES,
            "thresholding": (False,),
            "prediction_type": ("flow_prediction", "epsilon", "sample", "v_prediction"),
            "solver_order": (2, 1, 3),
            "predict_x0": (True, False),
            "solver_type": ("bh2", "bh1"),
            "lower_order_final": (True, False),
            "disable_corrector": ([], [0, 2]),
            "solver_p": (None,),
            "use_flow_sigmas": (True, False),
            "scheduler_type": ("unipc", "euler"),
        },
        runs=RUNS,
        begins=(0.0,),
        keep=_keep,
        magnification=_growth,
        at_least=50,
        refusals=(
            *_stage_refusals(),
            Refusal(
                match="option 'thresholding' is True, expected False",
                options={**ONE, "thresholding": True},
                set_timesteps={**TWO, "sigmas": SIGMAS},
                step=_over,
            ),
            Refusal(match="option 'solver_type' is 'foo', expected 'bh1' or 'bh2'", options={"solver_type": "foo"}),
            Refusal(
                match="option 'scheduler_type' is 'dmd', expected 'unipc' or 'euler'",
                options={**ONE, "scheduler_type": "dmd"},
                set_timesteps=TWO,
                step=_over,
            ),
            Refusal(
                match="option 'prediction_type' is 'flow_prediction' with 'predict_x0' false",
                options={**ONE, "predict_x0": False},
                set_timesteps={**TWO, "sigmas": SIGMAS},
                step=_over,
            ),
            Refusal(
                match="timestep is the integer 3, expected one of the scheduler's `timesteps`",
                options=EULER,
                set_timesteps=TWO,
                step=lambda scheduler, array: scheduler.step(array(), 3, array()),
            ),
            Refusal(
                match="the run of 2 steps is over. Call set_timesteps again",
                options=EULER,
                set_timesteps=TWO,
                step=_over,
            ),
        ),
    ),
]
