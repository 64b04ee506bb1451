"""The two steps of DALL-E 3's consistency decoder."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample, noise_like
from diffoundry.runtime.schedulers.arithmetic.betas import make_betas
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.discrete import DiscreteScheduler
from diffoundry.runtime.schedulers.options import TrainingOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["ConsistencyDecoderOptions", "ConsistencyDecoderScheduler"]

_TIMESTEPS = (1008, 512)


@dataclass(frozen=True, kw_only=True)
class ConsistencyDecoderOptions(TrainingOptions):
    """Options of `ConsistencyDecoderScheduler`, named as in diffusers."""

    num_train_timesteps: int = 1024
    sigma_data: float = 0.5

    def check(self, owner: str) -> None:
        """Refuse fewer training steps than the first timestep."""
        super().check(owner)
        if self.num_train_timesteps <= _TIMESTEPS[0]:
            raise ConfigError(
                f"{owner}: option 'num_train_timesteps' is {self.num_train_timesteps}, expected more than "
                f"{_TIMESTEPS[0]}, the first of its two timesteps."
            )


class ConsistencyDecoderScheduler(DiscreteScheduler[ConsistencyDecoderOptions]):
    """A consistency model: predict the clean sample, add noise for the second of its two steps, predict again.

        x0 = c_skip x + c_out F(c_in x),    x' = sqrt(a') x0 + sqrt(1 - a') z
        c_skip = d^2 / (sqrt(a) (sigma^2 + d^2)),    c_out = sigma d / sqrt(sigma^2 + d^2)
        c_in = 1 / sqrt(a (sigma^2 + d^2)),    sigma^2 = 1 / a - 1

    with a = alpha_bar of this timestep, a' of the next, d = `sigma_data`, z standard normal noise, none after the last.

    Song et al. 2023 (consistency models), Algorithm 1, https://arxiv.org/abs/2303.01469, as the decoder of DALL-E 3.
    diffusers: sqrt(a') = `sqrt_alphas_cumprod`, sqrt(1 - a') = `sqrt_one_minus_alphas_cumprod`.
    """

    Options = ConsistencyDecoderOptions
    made_for = "the consistency decoder of DALL-E 3"

    def _make_betas(self) -> Float32Array:
        # the cosine schedule has neither start nor end
        return make_betas("squaredcos_cap_v2", start=0.0, end=0.0, count=self.options.num_train_timesteps)

    def _training_schedule(self) -> Schedule:
        return Schedule(np.array(_TIMESTEPS), None, None)

    def _schedule(self, request: RunRequest) -> Schedule:
        if request.num_inference_steps != len(_TIMESTEPS):
            raise InputError(
                f"ConsistencyDecoderScheduler.set_timesteps: num_inference_steps is {request.num_inference_steps}, "
                f"expected {len(_TIMESTEPS)}: consistency decoders run two steps."
            )
        return Schedule(np.array(_TIMESTEPS), None, len(_TIMESTEPS))

    def _preconditioning(self, t: int) -> tuple[float, float, float]:
        """The factors c_skip, c_out and c_in at a timestep."""
        a, data = self._alpha_bar[t], self.options.sigma_data
        variance = 1.0 / a - 1.0
        total = variance + data * data
        return data * data / (total * a**0.5), (variance / total) ** 0.5 * data, 1.0 / (a * total) ** 0.5

    @property
    def init_noise_sigma(self) -> float:
        """Factor of the first noise: sqrt(1 - a) of the first timestep."""
        return math.sqrt(1.0 - self._alpha_bar[_TIMESTEPS[0]])

    def scale_model_input(self, sample: Sample, timestep: Any = None) -> Sample:
        """The sample times c_in.

        Raises:
            InputError: the timestep is None.
        """
        if timestep is None:
            raise InputError("ConsistencyDecoderScheduler.scale_model_input: timestep is None, expected a timestep.")
        return sample * self._preconditioning(int(timestep))[2]

    def step(self, model_output: Sample, timestep: int, sample: Sample, *, generator: Generator = None) -> StepResult:
        """Go to the next timestep, or to the clean sample.

        Args:
            model_output: F, float32, (B, C, H, W), for the input from `scale_model_input`.
            timestep: one of `timesteps`.
            sample: x, same shape.
            generator: source of z.

        Raises:
            InputError: the timestep is not in the schedule.
        """
        t = int(timestep)
        if t not in _TIMESTEPS:
            raise InputError(
                f"ConsistencyDecoderScheduler.step: timestep {t} is not in the schedule, expected one of {_TIMESTEPS}."
            )
        c_skip, c_out, _ = self._preconditioning(t)
        x0 = c_skip * sample + c_out * model_output
        if t == _TIMESTEPS[-1]:
            return StepResult(x0)
        a_next = self._alpha_bar[_TIMESTEPS[_TIMESTEPS.index(t) + 1]]
        return StepResult(a_next**0.5 * x0 + (1.0 - a_next) ** 0.5 * noise_like(x0, generator))
