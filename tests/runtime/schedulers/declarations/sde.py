"""Score-based models by stochastic differential equations: option values."""

from types import SimpleNamespace

import torch
from scheduler_harness.declaration import STEPS, Declaration, Refusal
from scheduler_harness.side_by_side import SEED, RoundedNoise


def _generator(sample):
    return torch.Generator().manual_seed(SEED) if isinstance(sample, torch.Tensor) else RoundedNoise(SEED)


def _variance_exploding(scheduler, sample, net, arguments, first):
    """As the pipeline of this scheduler, with a score of magnitude 1 / sigma."""
    generator = _generator(sample)
    scheduler.set_sigmas(len(scheduler.timesteps))
    for timestep, sigma in zip(scheduler.timesteps[first:], scheduler.sigmas[first:], strict=True):
        scale = 1 / (1 + float(sigma))
        for _ in range(scheduler.config.correct_steps):
            score = net(sample * scale, timestep) * scale
            result = scheduler.step_correct(score, sample, generator=generator)
            sample = result.prev_sample
            yield result
        result = scheduler.step_pred(net(sample * scale, timestep) * scale, timestep, sample, generator=generator)
        sample = result.prev_sample
        yield SimpleNamespace(prev_sample=sample, pred_original_sample=result.prev_sample_mean)


def _variance_preserving(scheduler, sample, net, arguments, first):
    """Each step takes its time in the sample's precision, which is the precision of diffusers' coefficients."""
    generator = _generator(sample)
    for timestep in scheduler.timesteps[first:]:
        time = timestep.to(sample.dtype) if isinstance(sample, torch.Tensor) else timestep
        sample, mean = scheduler.step_pred(net(sample, timestep), sample, time, generator=generator)
        yield SimpleNamespace(prev_sample=sample, pred_original_sample=mean)


DECLARATIONS = [
    Declaration(
        name="ScoreSdeVeScheduler",
        options={
            "num_train_timesteps": (2000, 100),
            "snr": (0.15, 0.3),
            "sigma_min": (0.01, 0.1),
            "sigma_max": (1348.0, 50.0),
            "sampling_eps": (1e-5, 1e-3),
            "correct_steps": (1, 0, 2),
        },
        runs=(
            *({"num_inference_steps": steps} for steps in STEPS),
            {"num_inference_steps": 7, "sampling_eps": 0.01},
        ),
        begins=(0.0,),
        not_affine=lambda case: "the corrector's step size",
        max_sigma_ulp=1,  # torch's powers are not correctly rounded
        lacks=("add_noise",),  # takes indices, see test_sde.py
        loop=_variance_exploding,
    ),
    Declaration(
        name="ScoreSdeVpScheduler",
        options={
            "num_train_timesteps": (2000, 100),
            "beta_min": (0.1, 0.3),
            "beta_max": (20, 10.0),
            "sampling_eps": (1e-3, 1e-2),
        },
        begins=(0.0,),
        # diffusers gets d^2 as 1 - exp(..) in float32, which near t = 0 leaves three or four digits of it
        tolerance=2e-3,
        loop=_variance_preserving,
        refusals=(
            Refusal(
                match="step: no run is planned. Call set_timesteps first",
                step=lambda scheduler, array: scheduler.step_pred(array(), array(), array()[0, 0, 0, 0]),
            ),
        ),
    ),
]
