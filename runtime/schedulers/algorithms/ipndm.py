"""IPNDM: fourth-order linear multistep on a cosine schedule in continuous time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.indexed import IndexedScheduler
from diffoundry.runtime.schedulers.options import TrainingOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["IPNDMOptions", "IPNDMScheduler"]

_ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the newest and the older values, by how many there are."""


@dataclass(frozen=True, kw_only=True)
class IPNDMOptions(TrainingOptions):
    """Options of `IPNDMScheduler`, named as in diffusers."""

    trained_betas: Sequence[float] | None = None

    def check(self, owner: str) -> None:
        """Refuse betas without a next one, and beyond one, whose alpha is imaginary."""
        super().check(owner)
        betas = self.trained_betas
        if betas is not None and (len(betas) < 2 or max(map(abs, betas)) > 1.0):
            raise ConfigError(
                f"{owner}: option 'trained_betas' is {list(betas)[:4]}..., expected two or more numbers from -1 to 1."
            )


class IPNDMScheduler(IndexedScheduler[IPNDMOptions]):
    """Improved pseudo numerical methods: the linear multistep rule from the first step on, at growing order.

        e_t = beta x + alpha output,    beta = sin^2(pi t / 2),    alpha = sqrt(1 - beta^2)
        e = (55 e_t - 59 e_{t-1} + 37 e_{t-2} - 9 e_{t-3}) / 24             (equation 12), lower orders at the start
        x' = alpha' (x - beta e) / alpha + beta' e                          (equation 9, DDIM's step)

    Liu et al. 2022, https://arxiv.org/abs/2202.09778; the schedule is v-diffusion's (Katherine Crowson).
    diffusers: beta = `betas`, alpha = `alphas`, the values e so far = `ets`. `trained_betas` are the betas of a run,
    whatever its number of steps.
    """

    Options = IPNDMOptions

    def _training_schedule(self) -> Schedule:
        return self._schedule(RunRequest(num_inference_steps=self.options.num_train_timesteps))

    def _schedule(self, request: RunRequest) -> Schedule:
        steps = request.steps
        betas, alphas = self._rates(steps)
        angles = np.arctan2(betas.astype(np.float64), alphas.astype(np.float64)).astype(np.float32)
        return Schedule((angles / math.pi * 2)[:-1], None, steps)

    def _rates(self, steps: int) -> tuple[Float32Array, Float32Array]:
        """Beta and alpha at each timestep and after the last one, float32."""
        if self.options.trained_betas is not None:
            betas = np.array(self.options.trained_betas, dtype=np.float32)
        else:
            angles = float32.linspace(1, 0, steps + 1) * math.pi / 2
            sines = np.sin(angles.astype(np.float64)).astype(np.float32)
            betas = sines * sines
        return betas, float32.sqrt(np.float32(1) - betas * betas)

    def _reset(self) -> None:
        steps = self.num_inference_steps
        assert steps is not None
        betas, alphas = self._rates(steps)
        self._beta: list[float] = betas.tolist()
        self._alpha: list[float] = alphas.tolist()
        self._values: tuple[Sample, ...] = ()

    def step(
        self,
        model_output: Sample,
        timestep: float,
        sample: Sample,
        *,
        generator: Generator = None,  # noqa: ARG002 - the loop passes it to every scheduler
    ) -> StepResult:
        """Go to the next timestep.

        Args:
            model_output: float32, (B, ...).
            timestep: one of `timesteps`.
            sample: x, same shape.
            generator: ignored, the method is deterministic.

        Raises:
            InputError: the first timestep of a run that is not in the schedule.
        """
        i = self._index(timestep)
        alpha, beta = self._alpha[i], self._beta[i]
        value = beta * sample + alpha * model_output
        self._values = (value, *self._values[: len(_ADAMS_BASHFORTH) - 1])

        newest, *older = _ADAMS_BASHFORTH[len(self._values) - 1]
        e = newest * value if older else value
        for weight, earlier in zip(older, self._values[1:], strict=True):
            e = e + weight * earlier
        # at the first timestep alpha is zero, and so is what it divides
        following = (self._alpha[i + 1] / max(alpha, 1e-8)) * (sample - beta * e) + self._beta[i + 1] * e
        self._advance()
        return StepResult(following)
