"""The stochastic second-order DPM-Solver++ that CogVideoX samples with."""

import math
from typing import Any

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample, noise_like
from diffoundry.runtime.schedulers.arithmetic.prediction import x0_from
from diffoundry.runtime.schedulers.base import StepResult
from diffoundry.runtime.schedulers.bases.cogvideox import CogVideoXScheduler

__all__ = ["CogVideoXDPMScheduler"]


class CogVideoXDPMScheduler(CogVideoXScheduler):
    """SDE-DPM-Solver++(2M) over CogVideoX's alpha_bar.

        x_{t-1} = sqrt((1 - a') / (1 - a) q) x_t + sqrt(a') (1 - q) D + sqrt((1 - a') (1 - q)) z
        q = e^{-2h} = a (1 - a') / (a' (1 - a)),    h = lambda' - lambda
        D = x0 + (x0 - x0_back) / (2 r),    r = (lambda - lambda_back) / h

    with lambda = log sqrt(a / (1 - a)), a, a', a_back the levels of this timestep, of the next and of the one before.
    D is x0 in the first and in the last step.

    Lu et al. 2022, section 3.4 (Algorithm 2) and appendix B (SDE), https://arxiv.org/abs/2211.01095.
    diffusers: the factors of x_t, D and its two terms = `mult[0]`, -`mult[1]`, `mult[2]`, `mult[3]`, that of z =
    `mult_noise`. Its `step` also takes `eta`, `use_clipped_model_output` and `variance_noise`, and ignores them; this
    one does not take them.
    """

    made_for = "CogVideoX, which generates videos"
    runs_unscaled = False

    def _reset(self) -> None:
        # timestep and x0 of the call before, for `_loop_step`
        self._before: tuple[int, Sample | None] | None = None

    def step(
        self,
        model_output: Sample,
        old_pred_original_sample: Sample | None,
        timestep: int,
        timestep_back: int | None,
        sample: Sample,
        *,
        generator: Generator = None,
    ) -> StepResult:
        """Go from x_t to x_{t-1}.

        Args:
            model_output: float32, (B, F, C, H, W); its meaning is `prediction_type`.
            old_pred_original_sample: x0_back, what the step before returned as `pred_original_sample`; None in the
                first step.
            timestep: t, one of `timesteps`.
            timestep_back: the timestep before it; None in the first step.
            sample: x_t, same shape as `model_output`.
            generator: source of z, drawn once in the first and last step, twice in the others, as in diffusers.

        Raises:
            InputError: no run is planned, or x0_back comes without its timestep.
        """
        t = int(timestep)
        a, a_next = self._levels(t)
        x0 = x0_from(self.options.prediction_type, model_output, sample, alpha=a**0.5, sigma=(1.0 - a) ** 0.5)
        q = a * (1.0 - a_next) / (a_next * (1.0 - a))
        z = noise_like(sample, generator)
        direction = x0
        if old_pred_original_sample is not None and t >= self._stride():
            if timestep_back is None:
                raise InputError(
                    "CogVideoXDPMScheduler.step: got old_pred_original_sample without timestep_back, expected the "
                    "timestep at which it was predicted."
                )
            # diffusers throws the first noise away
            z = noise_like(sample, generator)
            half_inverse_r = 0.5 * self._step_ratio(q, self._alpha_bar[int(timestep_back)], a)
            direction = (1.0 + half_inverse_r) * x0 - half_inverse_r * old_pred_original_sample
        following = (
            ((1.0 - a_next) / (1.0 - a) * q) ** 0.5 * sample
            + a_next**0.5 * (1.0 - q) * direction
            + ((1.0 - a_next) * (1.0 - q)) ** 0.5 * z
        )
        return StepResult(following, x0)

    @staticmethod
    def _step_ratio(q: float, a_back: float, a: float) -> float:
        """1 / r = h / h_back; zero after pure noise, whose lambda is minus infinity."""
        if a_back <= 0.0:
            return 0.0
        return math.log(q) / math.log(a_back * (1.0 - a) / (a * (1.0 - a_back)))

    def _loop_step(
        self, model_output: Sample, timestep: Any, sample: Sample, *, generator: Generator, **arguments: Any
    ) -> StepResult:
        """`step` with the timestep and the x0 of the call before."""
        back, old = self._before if self._before is not None else (None, None)
        result = self.step(model_output, old, timestep, back, sample, generator=generator, **arguments)
        self._before = int(timestep), result.pred_original_sample
        return result
