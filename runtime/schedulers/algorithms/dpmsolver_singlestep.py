"""DPM-Solver and DPM-Solver++, singlestep: blocks of one to three calls, each block a Runge-Kutta step of its own."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample, noise_like
from diffoundry.runtime.schedulers.arithmetic.integer_timesteps import spaced_timesteps_before_zero
from diffoundry.runtime.schedulers.arithmetic.learned_variance import VarianceType
from diffoundry.runtime.schedulers.arithmetic.multistep import SolverType, read_solver_names, update_coefficients
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.lambda_scheduler import LambdaOptions, LambdaScheduler, refuse_flow_with
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["DPMSolverSinglestepOptions", "DPMSolverSinglestepScheduler"]

_RULES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
"""The options that place the noise levels by themselves, beside `use_flow_sigmas`."""


@dataclass(frozen=True, kw_only=True)
class DPMSolverSinglestepOptions(LambdaOptions):
    """Options of `DPMSolverSinglestepScheduler`, named as in diffusers."""

    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: SolverType = "midpoint"
    lower_order_final: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lambda_min_clipped: float = -math.inf
    variance_type: VarianceType | None = None
    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential"] = "exponential"

    @classmethod
    def translate(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Read the solver types of DEIS and UniPC, as diffusers' constructor does."""
        return read_solver_names(given)

    def check(self, owner: str) -> None:
        """Refuse what has no formula."""
        super().check(owner)
        refuse_flow_with(self, owner, _RULES)
        if self.algorithm_type != "dpmsolver":
            return
        if self.final_sigmas_type == "zero":
            raise ConfigError(
                f"{owner}: option 'final_sigmas_type' is 'zero' with algorithm_type 'dpmsolver', which divides by the "
                "last sigma: expected 'sigma_min'."
            )
        if self.prediction_type == "flow_prediction":
            raise ConfigError(
                f"{owner}: option 'prediction_type' is 'flow_prediction' with algorithm_type 'dpmsolver', expected "
                "'dpmsolver++' or 'sde-dpmsolver++'."
            )


class DPMSolverSinglestepScheduler(LambdaScheduler[DPMSolverSinglestepOptions]):
    """Singlestep DPM-Solver and DPM-Solver++, order one to three, for the ODE and the SDE.

    A block of k calls starts at (x_b, lambda_b) with order 1; its j-th call goes from x_b, not from the sample before,
    to the next level with order j, by the outputs m_b, ... of the block:

        x' = c x_b + phi0 m_b + phi1 D1 + phi2 D2 + s z,    h = lambda' - lambda_b,    r_i = (lambda_i - lambda_b) / h
        order 2: D1 = (m_1 - m_b) / r_1
        order 3: E_i = (m_i - m_b) / r_i,    "midpoint": D1 = E_2, D2 = 0
                 "heun": D1 = (r_2 E_1 - r_1 E_2) / (r_2 - r_1),    D2 = 2 (E_2 - E_1) / (r_2 - r_1)

    with the coefficients of `multistep.py` between the levels b and '. Blocks have `solver_order` calls; the last call
    has order one where the run ends at sigma zero, and where `lower_order_final` is true.

    Lu et al. 2022, Algorithms 1 and 2, https://arxiv.org/abs/2206.00927 and https://arxiv.org/abs/2211.01095.
    diffusers: `order_list`, x_b is `sample`, r_1 and r_2 at third order are `r1` and `r0`. There a run whose number of
    steps is no multiple of `solver_order` turns `lower_order_final` on for all later runs too; here runs are
    independent. With `use_flow_sigmas`, custom timesteps count only the steps, as in diffusers.
    """

    Options = DPMSolverSinglestepOptions
    compatible_names = KARRAS_COMPATIBLES
    custom_schedules = frozenset({"timesteps", "mu"})

    def _schedule(self, request: RunRequest) -> Schedule:
        options = self.options
        if request.timesteps is not None:
            self._refuse_rules_with_timesteps(_RULES)
            timesteps = np.asarray(request.timesteps).astype(np.int64)
        else:
            timesteps = spaced_timesteps_before_zero(
                "linspace",
                steps=request.steps,
                train_steps=options.num_train_timesteps,
                last=self._usable_steps(options.lambda_min_clipped),
            )
        steps = len(timesteps)
        placed, levels = self._levels(timesteps, steps, shift=self._flow_shift(request), round_karras=True)
        last = self._training_sigmas[0] if options.final_sigmas_type == "sigma_min" else 0.0
        return Schedule(placed.astype(np.int64), np.append(levels, last).astype(np.float32), steps)

    def _reset(self) -> None:
        self._outputs: tuple[Sample, ...] = ()
        self._block_start: Sample | None = None

    def step(self, model_output: Sample, timestep: int, sample: Sample, *, generator: Generator = None) -> StepResult:
        """Go to the next timestep.

        Args:
            model_output: float32, (B, C, H, W), or (B, 2 C, H, W) with a learned variance, which is not used.
            timestep: one of `timesteps`.
            sample: x, (B, C, H, W).
            generator: source of z for "sde-dpmsolver++".

        Raises:
            InputError: no run is planned, or it is over.
        """
        self._require_run()
        i = self._index(timestep)
        convert = self._epsilon if self.options.algorithm_type == "dpmsolver" else self._x0
        newest = convert(model_output, sample, self._sigma[i])
        self._outputs = (newest, *self._outputs[: self.options.solver_order - 1])
        noise = noise_like(newest, generator) if self.options.algorithm_type == "sde-dpmsolver++" else None
        order = min(self._order(i), len(self._outputs))
        if order == 1:
            self._block_start = sample
        following = self._update(i, order, noise)
        self._advance()
        return StepResult(following)

    def _order(self, i: int) -> int:
        """The place of call i in its block, counted from one."""
        options, steps = self.options, len(self.timesteps)
        lowered = options.lower_order_final and steps % options.solver_order == 0
        if i == steps - 1 and (lowered or options.final_sigmas_type == "zero"):
            return 1
        return 1 + i % options.solver_order

    def _update(self, i: int, order: int, noise: Sample | None) -> Sample:
        """The sample at level i + 1, from the first level of the block."""
        nodes = [self._node(i + 1 - back) for back in range(order + 1)]
        algorithm, solver = self.options.algorithm_type, self.options.solver_type
        if len(set(nodes[1:])) < order:
            # no slope between equal levels: the block's first output alone; diffusers divides by zero
            c, weights = update_coefficients(nodes[0], nodes[-1], 1, algorithm, solver), [0.0] * order
        else:
            c = update_coefficients(nodes[0], nodes[-1], order, algorithm, solver)
            weights = self._slopes([node.half_log_snr for node in nodes], c.phi1, c.phi2)
        weights[-1] += c.phi0
        assert self._block_start is not None
        following = c.sample * self._block_start
        for weight, output in zip(weights, self._outputs, strict=False):
            following = following + weight * output
        return following if noise is None else following + c.noise * noise

    def _slopes(self, lambdas: list[float], phi1: float, phi2: float) -> list[float]:
        """phi1 D1 + phi2 D2 as weights of the block's outputs, newest first; lambdas: target, newest, ..., first."""
        h = lambdas[0] - lambdas[-1]
        r = [(value - lambdas[-1]) / h for value in lambdas[1:-1]]
        if len(r) < 2:
            weights = [phi1 / each for each in r]
        elif self.options.solver_type == "midpoint":
            weights = [phi1 / r[0], 0.0]
        else:
            gap = r[0] - r[1]
            weights = [(2.0 * phi2 - phi1 * r[1]) / (gap * r[0]), (phi1 * r[0] - 2.0 * phi2) / (gap * r[1])]
        return [*weights, -sum(weights)]
