"""DDPM: ancestral sampling from the reverse Markov chain of a diffusion model."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample, noise_like
from diffoundry.runtime.schedulers.arithmetic.integer_timesteps import custom_timesteps
from diffoundry.runtime.schedulers.arithmetic.learned_variance import (
    VarianceType,
    is_learned,
    learned_deviation,
    split_variance,
)
from diffoundry.runtime.schedulers.arithmetic.prediction import x0_from
from diffoundry.runtime.schedulers.arithmetic.spacing import Spacing, spaced_timesteps
from diffoundry.runtime.schedulers.arithmetic.thresholding import limit_x0
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.discrete import DiscreteScheduler
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.options import BetaOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["DDPMOptions", "DDPMScheduler"]


@dataclass(frozen=True, kw_only=True)
class DDPMOptions(BetaOptions):
    """Options of `DDPMScheduler`, named as in diffusers."""

    variance_type: VarianceType | None = "fixed_small"
    clip_sample: bool = True
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    clip_sample_range: float = 1.0
    sample_max_value: float | None = 1.0
    timestep_spacing: Spacing = "leading"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False

    BETA_SCHEDULES = (*BetaOptions.BETA_SCHEDULES, "laplace", "sigmoid")


class DDPMScheduler(DiscreteScheduler[DDPMOptions]):
    """Denoising diffusion probabilistic models, also over a subset of the timesteps.

        x_{t-1} = sqrt(a') b / (1 - a) x0 + sqrt(1 - b) (1 - a') / (1 - a) x_t + s z
        b = 1 - a / a'
        s^2 = (1 - a') / (1 - a) b  ("fixed_small"),  b  ("fixed_large"),  or learned

    with a = alpha_bar of this timestep, a' of the next, z standard normal noise, none at t = 0.

    Ho et al. 2020, equations 6 and 7, https://arxiv.org/abs/2006.11239; learned variances as in `learned_variance.py`.
    diffusers: a = `alpha_prod_t`, a' = `alpha_prod_t_prev`, b = `current_beta_t`. Its "fixed_large_log" takes the root
    of a logarithm, which is NaN; here it is "fixed_large", whose logarithm Glide stores.
    """

    Options = DDPMOptions
    compatible_names = KARRAS_COMPATIBLES
    custom_schedules = frozenset({"timesteps"})

    def _schedule(self, request: RunRequest) -> Schedule:
        options = self.options
        if request.timesteps is not None:
            given = custom_timesteps(type(self).__name__, request.timesteps, options.num_train_timesteps)
            return Schedule(given, None, None)
        steps = request.steps
        self._check_steps(steps)
        timesteps = spaced_timesteps(
            options.timestep_spacing, steps=steps, train_steps=options.num_train_timesteps, offset=options.steps_offset
        )
        return Schedule(timesteps.round().astype(np.int64), None, steps)

    def _reset(self) -> None:
        # the timestep after each one; none after the last
        order = self.timesteps.tolist()
        self._following = dict(zip(order, [*order[1:], -1], strict=True))

    def output_channels(self, channels: int) -> tuple[int, ...]:
        """Return the accepted numbers of output channels: twice the sample's where the variance is learned."""
        return (2 * channels if is_learned(self.options.variance_type) else channels,)

    def step(self, model_output: Sample, timestep: int, sample: Sample, *, generator: Generator = None) -> StepResult:
        """Go from x_t to x_{t-1}.

        Args:
            model_output: float32, (B, C, H, W), or (B, 2 C, H, W) with a learned variance.
            timestep: t, one of `timesteps`.
            sample: x_t, (B, C, H, W).
            generator: source of z.

        Raises:
            InputError: the timestep is not in the schedule, or the model has no variance where one is expected.
        """
        options, t = self.options, int(timestep)
        if t not in self._following:
            raise InputError(
                f"{type(self).__name__}.step: timestep {t} is not in the schedule, expected one of `timesteps`."
            )
        previous = self._following[t]
        predicted = None
        if is_learned(options.variance_type):
            model_output, predicted = split_variance(model_output, sample)

        following, x0 = self._posterior_mean(model_output, t, previous, sample)
        if t > 0:
            noise = noise_like(model_output, generator)
            a, a_next = self._alpha_bars(t, previous)
            b = 1.0 - a / a_next
            small = max((1.0 - a_next) / (1.0 - a) * b, 1e-20)
            following = following + self._deviation(predicted, small, b) * noise
        return StepResult(following, x0)

    def _alpha_bars(self, t: int, previous: int) -> tuple[float, float]:
        """The levels a and a', of the timestep and of the one after it, which is negative after the last."""
        return self._alpha_bar[t], self._alpha_bar[previous] if previous >= 0 else 1.0

    def _posterior_mean(self, output: Sample, t: int, previous: int, sample: Sample) -> tuple[Sample, Sample]:
        """The next sample without its noise, and x0 (Ho et al. 2020, equation 7)."""
        a, a_next = self._alpha_bars(t, previous)
        b = 1.0 - a / a_next
        x0 = x0_from(self.options.prediction_type, output, sample, alpha=a**0.5, sigma=(1.0 - a) ** 0.5)
        x0 = limit_x0(x0, self.options)
        mean_x0 = a_next**0.5 * b / (1.0 - a)
        mean_sample = (a / a_next) ** 0.5 * (1.0 - a_next) / (1.0 - a)
        return mean_x0 * x0 + mean_sample * sample, x0

    def _deviation(self, predicted: Sample | None, small: float, large: float) -> Sample | float:
        """Standard deviation s of the noise: a number, or one for each pixel where it is learned."""
        if predicted is not None:
            return learned_deviation(predicted, self.options.variance_type, small=small, large=large)
        variance = large if self.options.variance_type in ("fixed_large", "fixed_large_log") else small
        return float(variance**0.5)
