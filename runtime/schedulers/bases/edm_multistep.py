"""The base of multistep DPM-Solver++ for models with EDM's preconditioning."""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Sample
from diffoundry.runtime.schedulers.arithmetic.multistep import (
    Algorithm,
    Node,
    SolverType,
    multistep_update,
    order_in_run,
    read_solver_names,
)
from diffoundry.runtime.schedulers.base import Schedule
from diffoundry.runtime.schedulers.bases.edm import EDMOptions, EDMScheduler, c_noise
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["EDMMultistepOptions", "EDMMultistepScheduler"]


@dataclass(frozen=True, kw_only=True)
class EDMMultistepOptions(EDMOptions):
    """Options that these schedulers share, named as in diffusers."""

    solver_type: SolverType = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False

    @classmethod
    def translate(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Read the solver types of DEIS and UniPC, as diffusers' constructor does."""
        return read_solver_names(given)


M = TypeVar("M", bound=EDMMultistepOptions)


class EDMMultistepScheduler(EDMScheduler[M]):
    """DPM-Solver++ in x = x0 + sigma epsilon: alpha is one everywhere, lambda = -log sigma."""

    def _training_schedule(self) -> Schedule:
        return self._planned(self.options.num_train_timesteps, 0.0)._replace(num_inference_steps=None)

    def _schedule(self, request: RunRequest) -> Schedule:
        last = self.options.sigma_min if self.options.final_sigmas_type == "sigma_min" else 0.0
        return self._planned(request.steps, last)

    def _planned(self, steps: int, last: float) -> Schedule:
        levels = self._levels(float32.linspace(0.0, 1.0, steps))
        return Schedule(self._timesteps_of(levels), np.append(levels, np.float32(last)), steps)

    def _timesteps_of(self, levels: Float32Array) -> Float32Array:
        """Timesteps of noise levels."""
        return c_noise(levels)

    def _index_of_unknown(self, timestep: float) -> int:  # noqa: ARG002
        return len(self.timesteps) - 1

    def _reset(self) -> None:
        self._outputs: tuple[Sample, ...] = ()

    def _following(
        self, x0: Sample, sample: Sample, i: int, *, solver_order: int, algorithm: Algorithm, noise: Sample | None
    ) -> Sample:
        """The sample at level i + 1, from the newest clean sample and those kept; advances the run."""
        self._outputs = (x0, *self._outputs[: solver_order - 1])
        order = order_in_run(
            self._sigma,
            i,
            len(self._outputs),
            steps=len(self.timesteps),
            lower_order_final=self.options.lower_order_final,
            euler_at_final=self.options.euler_at_final,
        )
        following = multistep_update(
            sample,
            self._outputs[:order],
            [Node(1.0, self._sigma[i + 1 - back]) for back in range(order + 1)],
            algorithm=algorithm,
            solver_type=self.options.solver_type,
            noise=noise,
        )
        self._advance()
        return following
