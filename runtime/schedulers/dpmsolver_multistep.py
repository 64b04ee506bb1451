"""DPM-Solver and DPM-Solver++: exponential multistep integrators of order one to three, ODE and SDE."""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers.affine import Sample
from diffoundry.runtime.schedulers.base import RunRequest, Schedule, StepResult
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.lambda_scheduler import LambdaOptions, LambdaScheduler, refuse_flow_with
from diffoundry.runtime.schedulers.noise import Generator, noise_like
from diffoundry.runtime.schedulers.options import SigmaSchedule
from diffoundry.runtime.schedulers.sigmas import lu_sigmas, sigma_to_timestep
from diffoundry.runtime.schedulers.spacing import Spacing, spaced_timesteps_before_zero

__all__ = ["DPMSolverMultistepOptions", "DPMSolverMultistepScheduler"]

_RULES = ("use_karras_sigmas", "use_lu_lambdas", "use_exponential_sigmas", "use_beta_sigmas")
"""The options that place the noise levels by themselves, beside `use_flow_sigmas`."""


@dataclass(frozen=True, kw_only=True)
class DPMSolverMultistepOptions(LambdaOptions):
    """Options of `DPMSolverMultistepScheduler`, named as in diffusers."""

    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    use_lu_lambdas: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lambda_min_clipped: float = -math.inf
    variance_type: Literal["learned", "learned_range"] | None = None
    timestep_spacing: Spacing = "linspace"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False
    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential"] = "exponential"

    @classmethod
    def translate(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Read the solver types of DEIS and UniPC, as diffusers' constructor does."""
        solver = given.get("solver_type")
        given = {**given, "solver_type": "midpoint"} if solver in ("logrho", "bh1", "bh2") else given
        # diffusers lets "deis" pass only where it ends at sigma_min
        deis = given.get("algorithm_type") == "deis" and given.get("final_sigmas_type") == "sigma_min"
        return {**given, "algorithm_type": "dpmsolver++"} if deis else given

    @property
    def predicts_x0(self) -> bool:
        """Whether the integral is over the clean sample ("++") and not over the noise."""
        return self.algorithm_type.endswith("++")

    @property
    def is_stochastic(self) -> bool:
        """Whether the SDE is solved and not the ODE."""
        return self.algorithm_type.startswith("sde")

    def check(self, owner: str) -> None:
        """Refuse what has no formula."""
        super().check(owner)
        refuse_flow_with(self, owner, _RULES)
        if not self.predicts_x0:
            self._check_noise_integral(owner)

    def _check_noise_integral(self, owner: str) -> None:
        if self.final_sigmas_type == "zero":
            raise ConfigError(
                f"{owner}: option 'final_sigmas_type' is 'zero' with algorithm_type '{self.algorithm_type}', which "
                "divides by the last sigma: expected 'sigma_min'."
            )
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


class _Coefficients(NamedTuple):
    """The update x' = sample x + phi0 D0 + phi1 D1 + phi2 D2 + noise z."""

    sample: float
    phi0: float
    phi1: float
    phi2: float
    noise: float


class DPMSolverMultistepScheduler(LambdaScheduler[DPMSolverMultistepOptions]):
    """Multistep DPM-Solver(++): Taylor expansion of the model in lambda, derivatives from past outputs.

        x' = c x + phi0 D0 + phi1 D1 + phi2 D2 + s z,    h = lambda' - lambda,    r_i = h_i / h
        D0 = m_0,    D1 = (m_0 - m_1) / r_0,    and for the third order with D11 = (m_1 - m_2) / r_1
        D1 += r_0 / (r_0 + r_1) (D1 - D11),    D2 = (D1 - D11) / (r_0 + r_1)

    | algorithm_type | m | c | phi0 |
    |---|---|---|---|
    | dpmsolver++ | x0 | sigma' / sigma | alpha' (1 - e^-h) |
    | dpmsolver | epsilon | alpha' / alpha | -sigma' (e^h - 1) |
    | sde-dpmsolver++ | x0 | sigma' / sigma e^-h | alpha' (1 - e^-2h), s = sigma' sqrt(1 - e^-2h) |
    | sde-dpmsolver | epsilon | alpha' / alpha | -2 sigma' (e^h - 1), s = sigma' sqrt(e^2h - 1) |

    Lu et al. 2022, equations 4.1 to B.4, https://arxiv.org/abs/2206.00927 (dpmsolver) and Algorithms 1 and 2 and
    appendix A of https://arxiv.org/abs/2211.01095 (the others). diffusers: m = `model_outputs`, sigma' = `sigma_t`,
    sigma = `sigma_s0`; "midpoint" and "heun" are two ways to weigh D1 at second order.
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
            assert request.num_inference_steps is not None
            steps = request.num_inference_steps
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
        told = placed.astype(np.int64)
        return Schedule(told, np.append(levels, last).astype(np.float32), len(told))

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

        order = self._order(i)
        c = self._coefficients(i, order)
        following = c.sample * sample + self._expansion(i, order, c)
        if self.options.is_stochastic:
            noise = noise_like(newest, generator) if variance_noise is None else variance_noise
            following = following + c.noise * noise
        self._advance()
        return StepResult(following)

    def _order(self, i: int) -> int:
        """The order of this step: limited by the outputs so far, and lowered at the end of short runs."""
        options, steps = self.options, len(self.timesteps)
        short = options.lower_order_final and steps < 15
        order = len(self._outputs)
        if i == steps - 1 and (options.euler_at_final or short or options.final_sigmas_type == "zero"):
            return 1
        if i == steps - 2 and short:
            order = min(order, 2)
        # no slope between equal noise levels: the last step may end where it begins, or timesteps stand twice
        equal = (back for back in range(order) if self._sigma[i + 1 - back] == self._sigma[i - back])
        return max(1, next(equal, order))

    def _coefficients(self, i: int, order: int) -> _Coefficients:
        """c, phi0, phi1, phi2 and s of the table above, for one step."""
        alpha_next, sigma_next = self._scales(self._sigma[i + 1])
        alpha, sigma = self._scales(self._sigma[i])
        h = self._lambda(self._sigma[i + 1]) - self._lambda(self._sigma[i])
        if self.options.predicts_x0:
            # the SDE's exponentials run over 2 h: half as deterministic noise removal, half as noise put back
            k = -2.0 * h if self.options.is_stochastic else -h
            scale, ratio = -alpha_next, sigma_next / sigma
            ratio = ratio * math.exp(-h) if self.options.is_stochastic else ratio
            noise = sigma_next * math.sqrt(max(0.0, -math.expm1(-2.0 * h)))
        else:
            k = h
            scale, ratio = -sigma_next * (2.0 if self.options.is_stochastic else 1.0), alpha_next / alpha
            noise = sigma_next * math.sqrt(max(0.0, math.expm1(2.0 * h)))
        phi0 = scale * math.expm1(k)
        if order == 1:
            return _Coefficients(ratio, phi0, 0.0, 0.0, noise)
        phi1 = scale * (math.expm1(k) / k - 1.0)
        if order == 2 and self.options.solver_type == "midpoint":
            phi1 = 0.5 * phi0
        # the expansion has -1/2 everywhere; diffusers' third order of "sde-dpmsolver++" has +1/2, and is followed
        half = 0.5 if self.options.algorithm_type == "sde-dpmsolver++" else -0.5
        phi2 = scale * ((math.expm1(k) - k) / (k * k) + half)
        return _Coefficients(ratio, phi0, phi1, phi2, noise)

    def _expansion(self, i: int, order: int, c: _Coefficients) -> Sample:
        """phi0 D0 + phi1 D1 + phi2 D2, gathered by output so that each is read once."""
        m = self._outputs
        if order == 1:
            return c.phi0 * m[0]
        h = self._lambda(self._sigma[i + 1]) - self._lambda(self._sigma[i])
        h0 = self._lambda(self._sigma[i]) - self._lambda(self._sigma[i - 1])
        r0 = h0 / h
        if order == 2:
            d1 = c.phi1 / r0
            return (c.phi0 + d1) * m[0] - d1 * m[1]
        h1 = self._lambda(self._sigma[i - 1]) - self._lambda(self._sigma[i - 2])
        r1 = h1 / h
        share = r0 / (r0 + r1)
        # weights of (m0 - m1) and (m1 - m2)
        first = (c.phi1 * (1.0 + share) + c.phi2 / (r0 + r1)) / r0
        second = -(c.phi1 * share + c.phi2 / (r0 + r1)) / r1
        return (c.phi0 + first) * m[0] + (second - first) * m[1] - second * m[2]
