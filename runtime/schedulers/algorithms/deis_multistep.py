"""DEIS: the noise prediction is interpolated in log rho by a polynomial, which is integrated exactly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample
from diffoundry.runtime.schedulers.arithmetic.integer_timesteps import spaced_timesteps_before_zero
from diffoundry.runtime.schedulers.arithmetic.multistep import distinct_order
from diffoundry.runtime.schedulers.arithmetic.spacing import Spacing
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.lambda_scheduler import LambdaOptions, LambdaScheduler, refuse_flow_with
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["DEISMultistepOptions", "DEISMultistepScheduler"]


@dataclass(frozen=True, kw_only=True)
class DEISMultistepOptions(LambdaOptions):
    """Options of `DEISMultistepScheduler`, named as in diffusers."""

    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Literal["deis"] = "deis"
    solver_type: Literal["logrho"] = "logrho"
    lower_order_final: bool = True
    timestep_spacing: Spacing = "linspace"
    steps_offset: int = 0
    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential"] = "exponential"

    @classmethod
    def translate(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Read the solver names of DPM-Solver and UniPC, as diffusers' constructor does."""
        if given.get("algorithm_type") in ("dpmsolver", "dpmsolver++"):
            given = {**given, "algorithm_type": "deis"}
        if given.get("solver_type") in ("midpoint", "heun", "bh1", "bh2"):
            given = {**given, "solver_type": "logrho"}
        return given

    def check(self, owner: str) -> None:
        """Refuse flow levels above one."""
        super().check(owner)
        refuse_flow_with(self, owner, ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"))


class DEISMultistepScheduler(LambdaScheduler[DEISMultistepOptions]):
    """Multistep DEIS in log rho, order one to three: rho = sigma_t / alpha_t.

        x' = alpha' (x / alpha + sum_i C_i epsilon_i),    C_i = integral from rho to rho' of l_i(log r) dr
        l_i(L) = product over j != i of (L - log rho_j) / (log rho_i - log rho_j)

    with epsilon_i the predictions at the last levels rho_i.

    Zhang & Chen 2022, equations 14 and 15 and appendix on log rho, https://arxiv.org/abs/2204.13902.
    diffusers: `ind_fn` is the integral, `coef1` to `coef3` are C_i. With "flow_prediction" but without
    `use_flow_sigmas` diffusers takes sigma where sigma_t belongs in epsilon = (x - alpha_t x0) / sigma_t; so do we.
    """

    Options = DEISMultistepOptions
    compatible_names = KARRAS_COMPATIBLES
    custom_schedules = frozenset({"mu"})

    def _schedule(self, request: RunRequest) -> Schedule:
        options = self.options
        timesteps = spaced_timesteps_before_zero(
            options.timestep_spacing,
            steps=request.steps,
            train_steps=options.num_train_timesteps,
            last=options.num_train_timesteps,
            offset=options.steps_offset,
        )
        shift = self._flow_shift(request)
        return self._ending_above_zero(*self._levels(timesteps, request.steps, shift=shift, round_karras=True))

    def _reset(self) -> None:
        self._outputs: tuple[Sample, ...] = ()

    def step(
        self,
        model_output: Sample,
        timestep: int,
        sample: Sample,
        *,
        generator: Generator = None,  # noqa: ARG002 - the loop passes it to every scheduler
    ) -> StepResult:
        """Go to the next timestep.

        Args:
            model_output: float32, (B, ...).
            timestep: one of `timesteps`.
            sample: x, same shape.
            generator: not used, nothing is random.

        Raises:
            InputError: no run is planned, or it is over.
        """
        self._require_run()
        i = self._index(timestep)
        newest = self._interpolated(model_output, sample, self._sigma[i])
        self._outputs = (newest, *self._outputs[: self.options.solver_order - 1])
        order = self._order(i)
        target, current = self._node(i + 1), self._node(i)
        following = (target.alpha / current.alpha) * sample
        if order == 1:
            growth = target.half_log_snr - current.half_log_snr
            following = following - (target.sigma * math.expm1(growth)) * newest
        else:
            nodes = [self._node(i + 1 - back) for back in range(order + 1)]
            integrals = _integrals([node.sigma / node.alpha for node in nodes])
            for integral, output in zip(integrals, self._outputs, strict=False):
                following = following + (target.alpha * integral) * output
        self._advance()
        return StepResult(following)

    def _interpolated(self, output: Sample, sample: Sample, sigma: float) -> Sample:
        """The noise that leads to the (thresholded) clean sample: the values that the polynomial interpolates."""
        options = self.options
        if options.prediction_type == "epsilon" and not options.thresholding:
            return output
        alpha_t, sigma_t = self._scales(sigma)
        divisor = sigma if options.prediction_type == "flow_prediction" else sigma_t
        return (sample - alpha_t * self._x0(output, sample, sigma)) * (1.0 / divisor)

    def _order(self, i: int) -> int:
        """The order of this step: limited by the outputs so far, and lowered at the end of short runs."""
        left = len(self.timesteps) - i
        order = len(self._outputs)
        if self.options.lower_order_final and len(self.timesteps) < 15:
            order = min(order, left)
        return distinct_order(self._sigma, i, order)


def _integrals(rho: Sequence[float]) -> list[float]:
    """C_i of each output, newest first.

    Args:
        rho: the level to reach, this one, and the one or two before.
    """
    logs = [math.log(value) for value in rho]
    result = []
    for i, own in enumerate(logs[1:], start=1):
        others = [value for j, value in enumerate(logs) if j not in (0, i)]
        area = _area(rho[0], logs[0], others) - _area(rho[1], logs[1], others)
        result.append(area / math.prod(own - other for other in others))
    return result


def _area(r: float, log_r: float, others: Sequence[float]) -> float:
    """The antiderivative of the product of (log r - c) over one or two c, at r."""
    if len(others) == 1:
        return r * (log_r - 1.0 - others[0])
    return r * (log_r * log_r - 2.0 * log_r + 2.0 - sum(others) * (log_r - 1.0) + math.prod(others))
