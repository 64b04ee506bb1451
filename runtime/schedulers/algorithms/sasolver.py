"""SA-Solver: stochastic Adams, a predictor over past outputs and a corrector that adds the newest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample, noise_like, per_image
from diffoundry.runtime.schedulers.arithmetic.integer_timesteps import spaced_timesteps_before_zero
from diffoundry.runtime.schedulers.arithmetic.learned_variance import VarianceType
from diffoundry.runtime.schedulers.arithmetic.spacing import Spacing
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.lambda_scheduler import LambdaOptions, LambdaScheduler, refuse_flow_with
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["SASolverOptions", "SASolverScheduler", "TauFunction"]


@runtime_checkable
class TauFunction(Protocol):
    """Strength of the noise at a timestep: 0 is the ODE, 1 the usual SDE."""

    def __call__(self, timestep: float, /) -> float:
        """The value at a timestep."""
        ...


@dataclass(frozen=True, kw_only=True)
class SASolverOptions(LambdaOptions):
    """Options of `SASolverScheduler`, named as in diffusers."""

    predictor_order: Literal[1, 2, 3, 4] = 2
    corrector_order: Literal[1, 2, 3, 4] = 2
    tau_func: TauFunction | None = None
    algorithm_type: Literal["data_prediction", "noise_prediction"] = "data_prediction"
    lower_order_final: bool = True
    lambda_min_clipped: float = -math.inf
    variance_type: VarianceType | None = None
    timestep_spacing: Spacing = "linspace"
    steps_offset: int = 0

    def check(self, owner: str) -> None:
        """Refuse what has no formula."""
        super().check(owner)
        refuse_flow_with(self, owner, ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"))
        if self.algorithm_type == "noise_prediction" and self.prediction_type == "flow_prediction":
            raise ConfigError(
                f"{owner}: option 'prediction_type' is 'flow_prediction' with algorithm_type 'noise_prediction', "
                "expected 'data_prediction'."
            )


class SASolverScheduler(LambdaScheduler[SASolverOptions]):
    """Stochastic Adams-Bashforth predictor and Adams-Moulton corrector, order one to four each.

        x' = c x + g sum_i C_i m_i + s z,    C_i = integral from -h to 0 of e^(k u) l_i(u) du,    u = lambda - lambda'

    l_i are the Lagrange polynomials over the levels of the outputs m_i; the corrector goes over the last step once
    more, with the same z, and has the level lambda' among them. tau is `tau_func` of the step's timestep, by default
    one within 200 .. 800 and zero elsewhere.

    | algorithm_type | m | k | c | g | s |
    |---|---|---|---|---|---|
    | data_prediction | x0 | 1 + tau^2 | e^(-tau^2 h) sigma' / sigma | k alpha' | sigma' sqrt(1 - e^(-2 tau^2 h)) |
    | noise_prediction | epsilon | -1 | alpha' / alpha | -(1 + tau^2) sigma' | tau sigma' sqrt(e^(2 h) - 1) |

    At order two on x0 the integrals of the two polynomials' slopes are those of tau = 0 to leading order: h^2 / 2
    instead of (h k - 1 + e^(-h k)) / k^2.

    Xue et al. 2023, equations 14 and 17 and Algorithm 1, https://arxiv.org/abs/2309.05019. diffusers:
    `get_coefficients_fn` times its prefactors is g C_i, with powers of lambda itself instead of u; the adjustment at
    order two is in `stochastic_adams_bashforth_update` and `stochastic_adams_moulton_update`.
    """

    Options = SASolverOptions
    compatible_names = KARRAS_COMPATIBLES

    def _schedule(self, request: RunRequest) -> Schedule:
        options = self.options
        steps = request.steps
        timesteps = spaced_timesteps_before_zero(
            options.timestep_spacing,
            steps=steps,
            train_steps=options.num_train_timesteps,
            last=self._usable_steps(options.lambda_min_clipped),
            offset=options.steps_offset,
        )
        return self._ending_above_zero(*self._levels(timesteps, steps, shift=options.flow_shift, round_karras=True))

    def _reset(self) -> None:
        self._outputs: tuple[Sample, ...] = ()
        self._last: tuple[Sample, Sample, float] | None = None  # sample, noise and tau of the step before
        self._corrector_order = 0

    def step(self, model_output: Sample, timestep: float, sample: Sample, *, generator: Generator = None) -> StepResult:
        """Correct the sample, then go to the next timestep.

        Args:
            model_output: float32, (B, C, H, W), or (B, 2 C, H, W) with a learned variance, which is not used.
            timestep: one of `timesteps`.
            sample: x, (B, C, H, W).
            generator: source of z, which is drawn where tau is zero, too.

        Raises:
            InputError: no run is planned, or it is over.
        """
        self._require_run()
        i = self._index(timestep)
        options = self.options
        convert = self._x0 if options.algorithm_type == "data_prediction" else self._epsilon
        newest = convert(model_output, sample, self._sigma[i])
        if i > 0 and self._last is not None:
            start, noise, tau = self._last
            sample = self._update(i, start, (newest, *self._outputs), self._corrector_order, i, noise, tau)
        kept = max(options.predictor_order, options.corrector_order - 1)
        self._outputs = (newest, *self._outputs[: kept - 1])
        noise, tau = noise_like(newest, generator), self._tau(timestep)
        left = len(self.timesteps) - i if options.lower_order_final else 4
        self._corrector_order = min(options.corrector_order, left + 1, len(self._outputs) + 1)
        self._last = sample, noise, tau
        order = min(options.predictor_order, left, len(self._outputs))
        following = self._update(i + 1, sample, self._outputs, order, i, noise, tau)
        self._advance()
        return StepResult(following)

    def _tau(self, timestep: float) -> float:
        if self.options.tau_func is not None:
            return float(self.options.tau_func(timestep))
        return 1.0 if 200 <= timestep <= 800 else 0.0

    def _update(
        self, target: int, sample: Sample, outputs: Sequence[Sample], order: int, newest: int, noise: Sample, tau: float
    ) -> Sample:
        """The sample at index `target`, from the one before.

        Args:
            target: index of the level to reach.
            sample: x at the level before it.
            outputs: newest first.
            order: how many of them to use; fewer where levels are equal, between which there is no slope.
            newest: index of the newest output's level.
            noise: z of this step.
            tau: of this step.
        """
        to, start = self._node(target), self._node(target - 1)
        h = to.half_log_snr - start.half_log_snr
        on_x0 = self.options.algorithm_type == "data_prediction"
        if on_x0:
            k = 1.0 + tau * tau
            ratio, scale = math.exp(-tau * tau * h) * to.sigma / start.sigma, k * to.alpha
            spread = to.sigma * math.sqrt(max(0.0, -math.expm1(-2.0 * tau * tau * h)))
        else:
            k = -1.0
            ratio, scale = to.alpha / start.alpha, -(1.0 + tau * tau) * to.sigma
            spread = tau * to.sigma * math.sqrt(max(0.0, math.expm1(2.0 * h)))
        levels = [self._node(newest - back).half_log_snr - to.half_log_snr for back in range(order)]
        order = next((back for back in range(1, order) if levels[back] in levels[:back]), order)
        integrals = _integrals(levels[:order], h, k)
        if on_x0 and order == 2:
            adjustment = (0.5 * h * h - (h * k + math.expm1(-h * k)) / (k * k)) / (levels[0] - levels[1])
            integrals = [integrals[0] + adjustment, integrals[1] - adjustment]
        following = ratio * sample
        for integral, output in zip(integrals, outputs, strict=False):
            following = following + (scale * integral) * output
        return following + spread * noise

    def add_noise(
        self, original_samples: Float32Array, noise: Float32Array, timesteps: Sequence[float] | NDArray[Any]
    ) -> Float32Array:
        """The sample at training timesteps, not those of the run: sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise.

        Args:
            original_samples: x0, float32, (B, ...).
            noise: float32, same shape.
            timesteps: integers, (B,) or (1,).
        """
        alpha_bar = self.alphas_cumprod[np.asarray(timesteps).reshape(-1)]
        signal, spread = float32.sqrt(alpha_bar), float32.sqrt(np.float32(1) - alpha_bar)
        return per_image(signal, noise.ndim) * original_samples + per_image(spread, noise.ndim) * noise


def _integrals(levels: Sequence[float], h: float, k: float) -> list[float]:
    """The integral of e^(k u) l_i(u) over u from -h to 0, for each level."""
    shrunk = math.exp(-k * h)
    moments = [-math.expm1(-k * h) / k]
    for power in range(1, len(levels)):
        moments.append((-((-h) ** power) * shrunk - power * moments[-1]) / k)
    result = []
    for i, own in enumerate(levels):
        polynomial = [1.0]  # coefficients of u^0, u^1, ...
        for other in (*levels[:i], *levels[i + 1 :]):
            raised, lowered = [0.0, *polynomial], [other * c for c in polynomial] + [0.0]
            polynomial = [(a - b) / (own - other) for a, b in zip(raised, lowered, strict=True)]
        result.append(sum(c * moment for c, moment in zip(polynomial, moments, strict=True)))
    return result
