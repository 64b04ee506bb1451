"""sCM: sampling from continuous-time consistency models in the trigonometric parametrisation (SANA-Sprint)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample, noise_like
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.indexed import IndexedScheduler
from diffoundry.runtime.schedulers.options import TrainingOptions

__all__ = ["SCMOptions", "SCMScheduler"]


@dataclass(frozen=True, kw_only=True)
class SCMOptions(TrainingOptions):
    """Options of `SCMScheduler`, named as in diffusers."""

    prediction_type: Literal["trigflow"] = "trigflow"
    sigma_data: float = 0.5


class SCMScheduler(IndexedScheduler[SCMOptions]):
    """x_t = cos(t) x0 + sin(t) noise, t from pi / 2 to 0; predict the image, then noise it again.

        x0 = cos(t) x - sin(t) output
        x' = cos(t') x0 + sin(t') sigma_data z

    Lu & Song 2024, equation 3 (TrigFlow), https://arxiv.org/abs/2410.11081; multistep sampling as in Song et al. 2023,
    Algorithm 1. diffusers: t = `s`, t' = `t`. `timesteps` ends with where the run ends; `model_timesteps` does not.
    """

    Options = SCMOptions
    custom_schedules = frozenset({"timesteps"})
    combines_schedules = True

    def _training_schedule(self) -> Schedule:
        return Schedule(np.arange(self.options.num_train_timesteps)[::-1].copy(), None, None)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: object = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        max_timesteps: float | None = 1.57080,
        intermediate_timesteps: float | None = 1.3,
    ) -> None:
        """Plan a run and forget the one before.

        Args:
            num_inference_steps: number of steps.
            device: "cpu" or None, for code that was written for diffusers.
            timesteps: the timesteps themselves with the final one; `max_timesteps` must then be None.
            sigmas: not taken.
            mu: not taken.
            max_timesteps: the first timestep, from which the others are evenly spaced down to zero.
            intermediate_timesteps: the second timestep of two steps; must be None for another number of steps.

        Raises:
            InputError: a combination that is not one of these.
        """
        request = self._request(num_inference_steps, timesteps, sigmas, mu, device)
        steps = request.num_inference_steps or len(request.timesteps or ()) - 1
        planned = self._planned(steps, request.timesteps, max_timesteps, intermediate_timesteps)
        self._adopt(Schedule(planned, None, steps))

    def _planned(
        self, steps: int, timesteps: Sequence[float] | None, first: float | None, second: float | None
    ) -> Float32Array:
        trained = self.options.num_train_timesteps
        problem = None
        if steps > trained:
            problem = f"num_inference_steps is {steps}, expected at most num_train_timesteps = {trained}"
        elif second is not None and steps != 2:
            problem = f"intermediate_timesteps is {second} for {steps} steps, expected None unless there are two steps"
        elif timesteps is not None and first is not None:
            problem = f"got timesteps and max_timesteps = {first}, expected max_timesteps=None beside timesteps"
        elif timesteps is not None and len(timesteps) != steps + 1:
            problem = f"got {len(timesteps)} timesteps for {steps} steps, expected one more than steps: where it ends"
        elif timesteps is None and first is None:
            problem = "got neither timesteps nor max_timesteps, expected one of them"
        if problem:
            raise InputError(f"SCMScheduler.set_timesteps: {problem}.")
        if timesteps is not None:
            return np.asarray(timesteps, dtype=np.float32)
        assert first is not None
        if second is not None:
            return np.array([first, second, 0.0], dtype=np.float32)
        return float32.linspace(first, 0, steps + 1)

    @property
    def model_timesteps(self) -> NDArray[Any]:
        """All of `timesteps` but the last, which is where the run ends."""
        self._require_run()
        return self.timesteps[:-1]

    def step(self, model_output: Sample, timestep: float, sample: Sample, *, generator: Generator = None) -> StepResult:
        """Go from t to the next timestep t'.

        Args:
            model_output: float32, (B, ...).
            timestep: one of `model_timesteps`.
            sample: x, same shape, times sigma_data, as the noise is.
            generator: source of z, drawn at every step, also the last.

        Raises:
            InputError: no run is planned, the run is over, or its first timestep is not in the schedule.
        """
        self._require_run()
        i = self._index(timestep)
        if i + 1 == len(self.timesteps):
            raise InputError(
                f"SCMScheduler.step: timestep {timestep} is where the run ends, expected one of `model_timesteps`, "
                "which are all `timesteps` but the last."
            )
        here, following = self.timesteps[i : i + 2].tolist()
        x0 = math.cos(here) * sample - math.sin(here) * model_output
        noise = noise_like(model_output, generator)
        self._advance()
        return StepResult(math.cos(following) * x0 + (math.sin(following) * self.options.sigma_data) * noise, x0)
