"""DPM-Solver and DPM-Solver++ from the image to the noise: the levels of DPM-Solver, ascending."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.schedulers.algorithms.dpmsolver_multistep import MultistepOptions, MultistepScheduler
from diffoundry.runtime.schedulers.arithmetic.lambda_sigmas import flow_sigmas
from diffoundry.runtime.schedulers.arithmetic.multistep import read_solver_names
from diffoundry.runtime.schedulers.arithmetic.sigmas import placed_sigmas, sigma_to_timestep
from diffoundry.runtime.schedulers.base import Schedule
from diffoundry.runtime.schedulers.bases.lambda_scheduler import refuse_flow_with
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.options import SigmaSchedule
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["DPMSolverMultistepInverseOptions", "DPMSolverMultistepInverseScheduler"]


@dataclass(frozen=True, kw_only=True)
class DPMSolverMultistepInverseOptions(MultistepOptions):
    """Options of `DPMSolverMultistepInverseScheduler`, named as in diffusers."""

    @classmethod
    def translate(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Read the names of DEIS and UniPC, as diffusers' constructor does."""
        given = read_solver_names(given)
        return {**given, "algorithm_type": "dpmsolver++"} if given.get("algorithm_type") == "deis" else given

    def check(self, owner: str) -> None:
        """Refuse flow levels above one."""
        super().check(owner)
        refuse_flow_with(self, owner, ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"))


class DPMSolverMultistepInverseScheduler(MultistepScheduler[DPMSolverMultistepInverseOptions]):
    """DPM-Solver run backwards, to find the noise from which an image comes.

    The steps are those of `DPMSolverMultistepScheduler`, from sigma_min up to the noisiest usable level, so h < 0.
    Where that makes the variance of the "sde-" algorithms negative no noise is added; diffusers gives NaN.
    Flow sigmas descend here too, as in diffusers.

    Lu et al. 2022, https://arxiv.org/abs/2211.01095; inversion as in Song et al. 2020, section 4.3,
    https://arxiv.org/abs/2010.02502. diffusers: `noisiest_timestep`.
    """

    Options = DPMSolverMultistepInverseOptions
    compatible_names = KARRAS_COMPATIBLES

    def _training_schedule(self) -> Schedule:
        schedule = super()._training_schedule()
        return schedule._replace(timesteps=schedule.timesteps[::-1].copy())

    def _schedule(self, request: RunRequest) -> Schedule:
        options, trained = self.options, self._training_sigmas
        steps = request.steps
        usable = self._usable_steps(options.lambda_min_clipped)
        rule = options.sigma_schedule
        timesteps: NDArray[Any]
        if rule is not SigmaSchedule.TRAINED:
            low, high = self._carried_ends(trained[-1].item(), trained[0].item())
            levels = placed_sigmas(rule, low, high, steps)
            timesteps = sigma_to_timestep(levels, self._log_training_sigmas)
            timesteps = timesteps.round() if rule is SigmaSchedule.KARRAS else timesteps
            last = levels[-1]
        elif options.use_flow_sigmas:
            levels = flow_sigmas(options.flow_shift, options.num_train_timesteps, steps)
            timesteps, last = levels * options.num_train_timesteps, levels[-1]
        else:
            timesteps = self._spaced(steps, usable)
            levels, last = np.interp(timesteps, np.arange(len(trained)), trained), trained[usable - 1]
        # equal timesteps are visited once
        first = np.sort(np.unique(timesteps, return_index=True)[1])
        kept = timesteps[first].astype(np.int64)
        return Schedule(kept, np.append(levels, last).astype(np.float32), len(kept))

    def _indices(self, timesteps: Sequence[float] | NDArray[Any]) -> list[int]:
        """As in every scheduler, but never from `begin_index`, which diffusers' class does not have."""
        return [self.index_for_timestep(timestep) for timestep in np.asarray(timesteps).reshape(-1)]

    def _spaced(self, steps: int, usable: int) -> NDArray[np.int64]:
        """Ascending timesteps; the noisiest, which the run ends at, is not one of "linspace" and "leading"."""
        options = self.options
        if options.timestep_spacing == "linspace":
            return np.linspace(0, usable - 1, steps + 1).round()[:-1].astype(np.int64)
        if options.timestep_spacing == "leading":
            return np.arange(steps, dtype=np.int64) * (usable // (steps + 1)) + options.steps_offset
        return np.arange(usable, 0, -options.num_train_timesteps / steps).round()[::-1].astype(np.int64) - 1
