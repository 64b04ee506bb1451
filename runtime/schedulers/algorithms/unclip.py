"""UnCLIP's DDPM: evenly spread timesteps, and the variance of the jump between two of them."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample, noise_like
from diffoundry.runtime.schedulers.arithmetic.betas import make_betas
from diffoundry.runtime.schedulers.arithmetic.learned_variance import learned_deviation, split_variance
from diffoundry.runtime.schedulers.arithmetic.prediction import x0_from
from diffoundry.runtime.schedulers.arithmetic.thresholding import clip
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.discrete import DiscreteScheduler
from diffoundry.runtime.schedulers.options import TrainingOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["UnCLIPOptions", "UnCLIPScheduler"]


@dataclass(frozen=True, kw_only=True)
class UnCLIPOptions(TrainingOptions):
    """Options of `UnCLIPScheduler`, named as in diffusers."""

    variance_type: Literal["fixed_small_log", "learned_range"] = "fixed_small_log"
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    beta_schedule: Literal["squaredcos_cap_v2"] = "squaredcos_cap_v2"


class UnCLIPScheduler(DiscreteScheduler[UnCLIPOptions]):
    """DDPM as Karlo, the unCLIP model, samples it.

        x_{t'} = sqrt(a') b / (1 - a) x0 + sqrt(1 - b) (1 - a') / (1 - a) x_t + s z
        s^2 = (1 - a') / (1 - a) b,  or learned
        b = beta_t where t' = t - 1, else 1 - a / a'

    with a = alpha_bar of t, a' of the timestep t' that follows in the run, z standard normal noise, none at t = 0.

    Ho et al. 2020, equations 6 and 7, https://arxiv.org/abs/2006.11239; Ramesh et al. 2022 (unCLIP), appendix C,
    https://arxiv.org/abs/2204.06125; learned variances as in `learned_variance.py`.
    diffusers: a = `alpha_prod_t`, a' = `alpha_prod_t_prev`, b = `beta`, t' = `prev_timestep`.
    """

    Options = UnCLIPOptions
    made_for = "unCLIP models such as Karlo"
    runs_unscaled = False

    def _make_betas(self) -> Float32Array:
        # the cosine schedule has neither start nor end
        return make_betas(self.options.beta_schedule, start=0.0, end=0.0, count=self.options.num_train_timesteps)

    def _prepare(self) -> None:
        super()._prepare()
        self._beta: list[float] = self.betas.tolist()

    def _schedule(self, request: RunRequest) -> Schedule:
        steps = request.steps
        self._check_steps(steps)
        if steps < 2:
            raise InputError(
                f"UnCLIPScheduler.set_timesteps: num_inference_steps is {steps}, expected at least 2: its timesteps "
                "hold both the first and the last training step."
            )
        stride = (self.options.num_train_timesteps - 1) / (steps - 1)
        timesteps = (np.arange(steps) * stride).round()[::-1].astype(np.int64)
        return Schedule(timesteps, None, steps)

    def _reset(self) -> None:
        order = self.timesteps.tolist()
        self._following: dict[int, int | None] = dict(zip(order, [*order[1:], None], strict=True))

    def output_channels(self, channels: int) -> tuple[int, ...]:
        """Return the accepted numbers of output channels: twice the sample's where the variance is learned."""
        return (2 * channels if self.options.variance_type == "learned_range" else channels,)

    def step(
        self,
        model_output: Sample,
        timestep: int,
        sample: Sample,
        *,
        prev_timestep: int | None = None,
        generator: Generator = None,
    ) -> StepResult:
        """Go from x_t to x_{t'}.

        Args:
            model_output: float32, (B, C, H, W), or (B, 2 C, H, W) with a learned variance.
            timestep: t.
            sample: x_t, (B, C, H, W).
            prev_timestep: t'; by default t - 1, which is the next one only in a run of all training steps.
            generator: source of z.

        Raises:
            InputError: the model has no variance where one is expected.
        """
        options, t = self.options, int(timestep)
        previous = t - 1 if prev_timestep is None else int(prev_timestep)
        predicted = None
        if options.variance_type == "learned_range":
            model_output, predicted = split_variance(model_output, sample)

        a = self._alpha_bar[t]
        a_next = self._alpha_bar[previous] if previous >= 0 else 1.0
        b = self._beta[t] if previous == t - 1 else 1.0 - a / a_next
        if previous != t - 1 and isinstance(sample, np.ndarray) and sample.dtype == np.float32:
            # As diffusers rounds it: b of a long first jump is 1, and x_t does not count.
            b = float(np.float32(1) - np.float32(a) / np.float32(a_next))
        x0 = x0_from(options.prediction_type, model_output, sample, alpha=a**0.5, sigma=(1.0 - a) ** 0.5)
        if options.clip_sample:
            x0 = clip(x0, options.clip_sample_range)

        mean_x0 = a_next**0.5 * b / (1.0 - a)
        mean_sample = (1.0 - b) ** 0.5 * (1.0 - a_next) / (1.0 - a)
        following = mean_x0 * x0 + mean_sample * sample
        if t > 0:
            noise = noise_like(model_output, generator)
            small = max((1.0 - a_next) / (1.0 - a) * b, 1e-20)
            if predicted is None:
                following = following + small**0.5 * noise
            else:
                following = following + learned_deviation(predicted, "learned_range", small=small, large=b) * noise
        return StepResult(following, x0)

    def _loop_step(
        self, model_output: Sample, timestep: Any, sample: Sample, *, generator: Generator, **arguments: Any
    ) -> StepResult:
        """`step` to the timestep that follows in the run."""
        following = self._following.get(int(timestep))
        return self.step(model_output, timestep, sample, prev_timestep=following, generator=generator, **arguments)
