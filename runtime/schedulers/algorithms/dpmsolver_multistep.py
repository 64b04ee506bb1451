"""DPM-Solver and DPM-Solver++, multistep: the levels of a run and the order of each of its steps."""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample, noise_like
from diffoundry.runtime.schedulers.arithmetic.integer_timesteps import spaced_timesteps_before_zero
from diffoundry.runtime.schedulers.arithmetic.lambda_sigmas import lu_sigmas
from diffoundry.runtime.schedulers.arithmetic.learned_variance import VarianceType
from diffoundry.runtime.schedulers.arithmetic.multistep import (
    Algorithm,
    SolverType,
    multistep_update,
    order_in_run,
    read_solver_names,
)
from diffoundry.runtime.schedulers.arithmetic.sigmas import sigma_to_timestep
from diffoundry.runtime.schedulers.arithmetic.spacing import Spacing
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.lambda_scheduler import LambdaOptions, LambdaScheduler, refuse_flow_with
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.options import SigmaSchedule
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["DPMSolverMultistepOptions", "DPMSolverMultistepScheduler", "MultistepOptions", "MultistepScheduler"]

_RULES = ("use_karras_sigmas", "use_lu_lambdas", "use_exponential_sigmas", "use_beta_sigmas")
"""The options that place the noise levels by themselves, beside `use_flow_sigmas`."""


@dataclass(frozen=True, kw_only=True)
class MultistepOptions(LambdaOptions):
    """Options of multistep DPM-Solver and its inverse."""

    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Algorithm = "dpmsolver++"
    solver_type: SolverType = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    lambda_min_clipped: float = -math.inf
    variance_type: VarianceType | None = None
    timestep_spacing: Spacing = "linspace"
    steps_offset: int = 0

    @property
    def predicts_x0(self) -> bool:
        """True where the integral is over the clean sample ("++"), False for the noise."""
        return self.algorithm_type.endswith("++")

    @property
    def is_stochastic(self) -> bool:
        """True for the SDE, False for the ODE."""
        return self.algorithm_type.startswith("sde")

    def check(self, owner: str) -> None:
        """Refuse what has no formula."""
        super().check(owner)
        if self.predicts_x0:
            return
        if self.is_stochastic and self.solver_order == 3:
            raise ConfigError(
                f"{owner}: option 'solver_order' is 3 with algorithm_type 'sde-dpmsolver', expected 1 or 2: its third "
                "order is not known."
            )
        if self.prediction_type == "flow_prediction":
            raise ConfigError(
                f"{owner}: option 'prediction_type' is 'flow_prediction' with algorithm_type '{self.algorithm_type}', "
                "expected 'dpmsolver++' or 'sde-dpmsolver++'."
            )


@dataclass(frozen=True, kw_only=True)
class DPMSolverMultistepOptions(MultistepOptions):
    """Options of `DPMSolverMultistepScheduler`, named as in diffusers."""

    use_lu_lambdas: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    rescale_betas_zero_snr: bool = False
    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential"] = "exponential"

    @classmethod
    def translate(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Read the solver types of DEIS and UniPC, as diffusers' constructor does."""
        return read_solver_names(given)

    def check(self, owner: str) -> None:
        """Refuse what divides by zero."""
        super().check(owner)
        refuse_flow_with(self, owner, _RULES)
        if not self.predicts_x0 and self.final_sigmas_type == "zero":
            raise ConfigError(
                f"{owner}: option 'final_sigmas_type' is 'zero' with algorithm_type '{self.algorithm_type}', which "
                "divides by the last sigma: expected 'sigma_min'."
            )


M = TypeVar("M", bound=MultistepOptions)


class MultistepScheduler(LambdaScheduler[M]):
    """The steps of multistep DPM-Solver, in whichever direction its noise levels go."""

    def _reset(self) -> None:
        self._outputs: tuple[Sample, ...] = ()

    def step(
        self,
        model_output: Sample,
        timestep: int,
        sample: Sample,
        *,
        generator: Generator = None,
        variance_noise: Sample | None = None,
    ) -> StepResult:
        """Go to the next timestep.

        Args:
            model_output: float32, (B, C, H, W), or (B, 2 C, H, W) with a learned variance, which is not used.
            timestep: one of `timesteps`.
            sample: x, (B, C, H, W).
            generator: source of z for the "sde-" algorithms.
            variance_noise: z itself, instead of a generator.

        Raises:
            InputError: no run is planned, or it is over.
        """
        self._require_run()
        i = self._index(timestep)
        convert = self._x0 if self.options.predicts_x0 else self._epsilon
        newest = convert(model_output, sample, self._sigma[i])
        self._outputs = (newest, *self._outputs[: self.options.solver_order - 1])

        noise = None
        if self.options.is_stochastic:
            noise = noise_like(newest, generator) if variance_noise is None else variance_noise
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
            [self._node(i + 1 - back) for back in range(order + 1)],
            algorithm=self.options.algorithm_type,
            solver_type=self.options.solver_type,
            noise=noise,
        )
        self._advance()
        return StepResult(following)


class DPMSolverMultistepScheduler(MultistepScheduler[DPMSolverMultistepOptions]):
    """Multistep DPM-Solver and DPM-Solver++, order one to three, for the ODE and the SDE.

        x' = c x + phi0 D0 + phi1 D1 + phi2 D2 + s z

    with D_k the k-th derivative in lambda of the model's x0 ("++") or epsilon, from its last outputs. The update and
    its table of coefficients are in `multistep.py`; here are the noise levels and the order of each step.

    Lu et al. 2022, https://arxiv.org/abs/2206.00927 and https://arxiv.org/abs/2211.01095.
    diffusers: `dpm_solver_first_order_update`, `multistep_dpm_solver_second_order_update` and `..._third_order_update`.
    """

    Options = DPMSolverMultistepOptions
    compatible_names = KARRAS_COMPATIBLES
    custom_schedules = frozenset({"timesteps", "mu"})

    def _schedule(self, request: RunRequest) -> Schedule:
        options = self.options
        if request.timesteps is not None:
            self._refuse_rules_with_timesteps((*_RULES, "use_flow_sigmas"))
            timesteps = np.asarray(request.timesteps).astype(np.int64)
            steps = len(timesteps)
        else:
            steps = request.steps
            timesteps = spaced_timesteps_before_zero(
                options.timestep_spacing,
                steps=steps,
                train_steps=options.num_train_timesteps,
                last=self._usable_steps(options.lambda_min_clipped),
                offset=options.steps_offset,
            )
        rounds = options.beta_schedule != "squaredcos_cap_v2"
        if options.use_lu_lambdas and options.sigma_schedule is not SigmaSchedule.KARRAS:
            levels = lu_sigmas(self._training_sigmas[0].item(), self._training_sigmas[-1].item(), steps)
            placed = sigma_to_timestep(levels, self._log_training_sigmas)
            placed = placed.round() if rounds else placed
        else:
            placed, levels = self._levels(timesteps, steps, shift=self._flow_shift(request), round_karras=rounds)
        last = self._training_sigmas[0] if options.final_sigmas_type == "sigma_min" else 0.0
        timesteps = placed.astype(np.int64)
        return Schedule(timesteps, np.append(levels, last).astype(np.float32), len(timesteps))
