"""VQ-Diffusion: option values."""

from types import SimpleNamespace

import numpy as np
import torch
from scheduler_harness.declaration import STEPS, Declaration, Refusal
from scheduler_harness.side_by_side import SEED

from diffoundry.runtime.random import TorchCpuGenerator

PIXELS = 32


def _loop(scheduler, sample, net, arguments, first):
    """As the VQ-Diffusion pipeline: all masked at first; the model sees the classes and gives log probabilities.

    Classes are compared as numbers: a wrong one is off by at least one.
    """
    theirs = isinstance(sample, torch.Tensor)
    dtype = np.asarray(sample).dtype
    convert = torch.from_numpy if theirs else np.asarray
    generator = torch.Generator().manual_seed(SEED) if theirs else TorchCpuGenerator(SEED)
    classes = scheduler.config.num_vec_classes
    tokens = np.full((len(sample), PIXELS), classes - 1)
    places = 0.7 * np.arange(classes - 1)[:, None] + 0.1 * np.arange(PIXELS)
    for timestep in scheduler.timesteps[first:]:
        logits = 4 * np.asarray(net(convert(np.sin(1.3 * tokens[:, None] + places).astype(dtype)), timestep))
        log_p = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(dtype)
        result = scheduler.step(convert(log_p), timestep, convert(tokens), generator=generator)
        tokens = np.asarray(result.prev_sample)
        yield SimpleNamespace(prev_sample=tokens.astype(dtype))


def _too_many(scheduler, array):
    tokens = array()[:, 0, 0].astype(np.int64) if isinstance(array(), np.ndarray) else array()[:, 0, 0].long()
    scheduler.step(array()[:, 0], 200, tokens)


DECLARATIONS = [
    Declaration(
        name="VQDiffusionScheduler",
        options={
            "num_vec_classes": (17, 5),
            "num_train_timesteps": (100, 50, 120),
            ("alpha_cum_start", "gamma_cum_start"): ((0.99999, 0.000009), (0.99, 0.001), (0.99, 0.000009)),
            ("alpha_cum_end", "gamma_cum_end"): ((0.000009, 0.99999), (0.005, 0.99), (0.000009, 0.99)),
        },
        runs=tuple({"num_inference_steps": steps} for steps in STEPS),
        begins=(0.0,),
        output_channels=lambda case: case.options["num_vec_classes"] - 1,
        not_affine=lambda case: "the choice of the most likely class",
        loop=_loop,
        refusals=(
            Refusal(match="option 'num_vec_classes' is missing, expected an integer; it has no default"),
            Refusal(
                match="num_inference_steps is 201, expected at most num_train_timesteps = 100",
                options={"num_vec_classes": 5},
                set_timesteps={"num_inference_steps": 201},
                step=_too_many,
            ),
        ),
    )
]
