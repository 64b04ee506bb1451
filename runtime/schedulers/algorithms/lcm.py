"""LCM: sampling from latent consistency models, a few steps that predict the image and noise it again."""

import math
from typing import NamedTuple

from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample, noise_like
from diffoundry.runtime.schedulers.arithmetic.prediction import x0_from
from diffoundry.runtime.schedulers.arithmetic.thresholding import limit_x0
from diffoundry.runtime.schedulers.bases.distilled import DistilledOptions, DistilledScheduler

__all__ = ["LCMResult", "LCMScheduler"]

_SIGMA_DATA = 0.5


class LCMResult(NamedTuple):
    """The result of a step of `LCMScheduler`.

    Attributes:
        prev_sample: the sample at the next, less noisy timestep.
        denoised: the clean sample predicted at this step, after the boundary condition.
    """

    prev_sample: Sample
    denoised: Sample

    @property
    def pred_original_sample(self) -> Sample:
        """`denoised`, by the name that the other schedulers' results have."""
        return self.denoised


class LCMScheduler(DistilledScheduler[DistilledOptions]):
    """f = c_skip x + c_out x0;  x' = sqrt(a') f + sqrt(1 - a') z, and x' = f in the last step.

        c_skip = s^2 / ((k t)^2 + s^2),    c_out = k t / sqrt((k t)^2 + s^2),    s = 0.5

    with a' = alpha_bar of the next timestep.

    Luo et al. 2023, Algorithm 2 and equation 9, https://arxiv.org/abs/2310.04378. diffusers: a' = `alpha_prod_t_prev`,
    k = `timestep_scaling`, f = `denoised`, s = `sigma_data`.
    """

    Options = DistilledOptions

    def step(  # type: ignore[override]  # diffusers' own output
        self, model_output: Sample, timestep: int, sample: Sample, *, generator: Generator = None
    ) -> LCMResult:
        """Go from x_t to the next timestep.

        Args:
            model_output: float32, (B, C, H, W); its meaning is `prediction_type`.
            timestep: t, one of `timesteps`.
            sample: x_t, same shape.
            generator: source of z; not drawn from in the last step.

        Raises:
            InputError: no run is planned, it is over, or its first timestep is not in the schedule.
        """
        steps, t = self._require_run(), int(timestep)
        i = self._index(timestep)
        a = self._alpha_bar[t]
        x0 = x0_from(self.options.prediction_type, model_output, sample, alpha=math.sqrt(a), sigma=math.sqrt(1.0 - a))
        x0 = limit_x0(x0, self.options)
        scaled = t * self.options.timestep_scaling
        norm = scaled**2 + _SIGMA_DATA**2
        denoised = (scaled / math.sqrt(norm)) * x0 + (_SIGMA_DATA**2 / norm) * sample
        self._advance()
        if i == steps - 1:
            return LCMResult(denoised, denoised)
        following = int(self.timesteps[i + 1]) if i + 1 < len(self.timesteps) else t
        a_next = self._alpha_bar[following] if following >= 0 else self._final_alpha_bar
        noise = noise_like(model_output, generator)
        return LCMResult(math.sqrt(a_next) * denoised + math.sqrt(1.0 - a_next) * noise, denoised)
