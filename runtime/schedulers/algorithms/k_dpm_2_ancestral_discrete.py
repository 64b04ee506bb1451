"""DPM-Solver-2 with ancestral sampling: down to a lower noise level over its middle, then noise up to the next one."""

import numpy as np

from diffoundry.runtime.schedulers.algorithms.k_dpm_2_discrete import (
    Intervals,
    KDPM2Options,
    KDPM2Scheduler,
    log_middle,
)
from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array

__all__ = ["KDPM2AncestralDiscreteScheduler"]


class KDPM2AncestralDiscreteScheduler(KDPM2Scheduler[KDPM2Options]):
    """The target of a step is sigma_down, below the next level sigma', and noise of sigma_up leads to sigma'.

        sigma_up^2 = sigma'^2 (sigma^2 - sigma'^2) / sigma^2,    sigma_down^2 = sigma'^2 - sigma_up^2

    k-diffusion, `sample_dpm_2_ancestral`; the split of the variance is that of DDPM's posterior (Song et al. 2020,
    equation 16 with eta = 1, https://arxiv.org/abs/2010.02502). diffusers: `sigmas_up`, `sigmas_down`,
    `sigmas_interpol`.
    """

    Options = KDPM2Options

    def _intervals(self, levels: Float32Array) -> Intervals:
        sigma, following = levels[:-1], levels[1:]
        squared, next_squared = sigma * sigma, following * following
        up = float32.sqrt(next_squared * (squared - next_squared) / squared)
        down_squared = next_squared - up * up
        # after a steep step float32 leaves nothing of the difference, where diffusers goes on with NaN
        down = np.where(down_squared > 0, float32.sqrt(np.abs(down_squared)), next_squared / sigma)
        middle = np.append(log_middle(sigma[:-1], down[:-1]), np.float32(0))
        return Intervals(middle, down, up)
