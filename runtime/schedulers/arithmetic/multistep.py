"""The multistep update of DPM-Solver and DPM-Solver++, for every scheduler that walks noise levels with it."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from diffoundry.runtime.schedulers.arithmetic.arrays import Sample
from diffoundry.runtime.schedulers.arithmetic.lambda_sigmas import half_log_snr

__all__ = [
    "Algorithm",
    "Coefficients",
    "Node",
    "SolverType",
    "distinct_order",
    "multistep_update",
    "order_in_run",
    "read_solver_names",
    "update_coefficients",
]

Algorithm = Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"]
SolverType = Literal["midpoint", "heun"]


def read_solver_names(given: dict[str, Any]) -> dict[str, Any]:
    """Options with the solver names of DEIS and UniPC replaced, as the constructors of diffusers do."""
    solver = given.get("solver_type")
    given = {**given, "solver_type": "midpoint"} if solver in ("logrho", "bh1", "bh2") else given
    # diffusers lets "deis" pass only where it ends at sigma_min
    deis = given.get("algorithm_type") == "deis" and given.get("final_sigmas_type") == "sigma_min"
    return {**given, "algorithm_type": "dpmsolver++"} if deis else given


class Node(NamedTuple):
    """One noise level: the sample there is alpha x0 + sigma epsilon."""

    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        """The solvers' variable lambda = log(alpha / sigma)."""
        return half_log_snr(self.alpha, self.sigma)


class Coefficients(NamedTuple):
    """The update x' = sample x + phi0 D0 + phi1 D1 + phi2 D2 + noise z."""

    sample: float
    phi0: float
    phi1: float
    phi2: float
    noise: float


def multistep_update(
    sample: Sample,
    outputs: Sequence[Sample],
    nodes: Sequence[Node],
    *,
    algorithm: Algorithm,
    solver_type: SolverType,
    noise: Sample | None = None,
) -> Sample:
    """One step: the model's Taylor expansion in lambda, with derivatives from past outputs, integrated exactly.

        x' = c x + phi0 D0 + phi1 D1 + phi2 D2 + s z,    h = lambda' - lambda,    r_i = h_i / h
        D0 = m_0,    D1 = (m_0 - m_1) / r_0,    and for the third order with D11 = (m_1 - m_2) / r_1
        D1 += r_0 / (r_0 + r_1) (D1 - D11),    D2 = (D1 - D11) / (r_0 + r_1)

    | algorithm | m | c | phi0 | s |
    |---|---|---|---|---|
    | dpmsolver++ | x0 | sigma' / sigma | alpha' (1 - e^-h) | |
    | dpmsolver | epsilon | alpha' / alpha | -sigma' (e^h - 1) | |
    | sde-dpmsolver++ | x0 | sigma' / sigma e^-h | alpha' (1 - e^-2h) | sigma' sqrt(1 - e^-2h) |
    | sde-dpmsolver | epsilon | alpha' / alpha | -2 sigma' (e^h - 1) | sigma' sqrt(e^2h - 1) |

    Lu et al. 2022, section 3 and appendix B, https://arxiv.org/abs/2206.00927 (dpmsolver); Lu et al. 2022, Algorithm 2
    and appendix A, https://arxiv.org/abs/2211.01095 (the others). diffusers: m = `model_outputs`, sigma' = `sigma_t`,
    sigma = `sigma_s0`; "midpoint" and "heun" are two ways to weigh D1 at second order.

    Args:
        sample: x.
        outputs: m_0, m_1, ... newest first; as many as the step's order, 1 to 3.
        nodes: the level to reach, this one, the one before, ...: one more than there are outputs.
        algorithm: row of the table.
        solver_type: weight of D1 at second order.
        noise: z, for the "sde-" algorithms.
    """
    order = len(outputs)
    c = update_coefficients(nodes[0], nodes[1], order, algorithm, solver_type)
    following = c.sample * sample + _expansion(outputs, nodes, c)
    return following if noise is None else following + c.noise * noise


def distinct_order(sigmas: Sequence[float], i: int, order: int) -> int:
    """The order that the noise levels around step i allow: there is no slope between equal ones.

    The last step may end where it begins, and timesteps may repeat; diffusers divides by zero there.

    Args:
        sigmas: noise levels of the run.
        i: the step from sigmas[i] to sigmas[i + 1].
        order: the order wanted.
    """
    equal = (back for back in range(order) if sigmas[i + 1 - back] == sigmas[i - back])
    return max(1, next(equal, order))


def order_in_run(
    sigmas: Sequence[float], i: int, outputs: int, *, steps: int, lower_order_final: bool, euler_at_final: bool
) -> int:
    """The order of a multistep step: limited by the outputs so far, and lowered at the end of short runs.

    Args:
        sigmas: noise levels of the run.
        i: the step from sigmas[i] to sigmas[i + 1].
        outputs: how many outputs there are, up to the solver's order.
        steps: number of steps of the run.
        lower_order_final: whether runs of fewer than 15 steps end with orders two and one.
        euler_at_final: whether every run ends with order one; one that ends at sigma zero always does.
    """
    short = lower_order_final and steps < 15
    if i == steps - 1 and (euler_at_final or short or sigmas[-1] == 0.0):
        return 1
    if i == steps - 2 and short:
        outputs = min(outputs, 2)
    return distinct_order(sigmas, i, outputs)


def update_coefficients(
    target: Node, current: Node, order: int, algorithm: Algorithm, solver_type: SolverType
) -> Coefficients:
    """The row of the table for a step between two levels; `multistep_update` says what the letters mean.

    Args:
        target: the level to reach.
        current: the level where x and D0 are taken.
        order: 1 to 3; phi1 depends on it.
        algorithm: row of the table.
        solver_type: weight of D1 at second order.
    """
    h = target.half_log_snr - current.half_log_snr
    stochastic = algorithm.startswith("sde")
    if algorithm.endswith("++"):
        # the SDE's exponentials run over 2 h: what is taken off is partly put back as noise
        k = -2.0 * h if stochastic else -h
        scale, ratio = -target.alpha, target.sigma / current.sigma
        ratio = ratio * math.exp(-h) if stochastic else ratio
        variance = -math.expm1(-2.0 * h)
    else:
        k = h
        scale, ratio = target.sigma * (-2.0 if stochastic else -1.0), target.alpha / current.alpha
        variance = math.expm1(2.0 * h)
    noise = target.sigma * math.sqrt(max(0.0, variance))
    phi0 = scale * math.expm1(k)
    if order == 1:
        return Coefficients(ratio, phi0, 0.0, 0.0, noise)
    phi1 = scale * (math.expm1(k) / k - 1.0)
    if order == 2 and solver_type == "midpoint":
        phi1 = 0.5 * phi0
    # the expansion has -1/2 everywhere; diffusers' third order of "sde-dpmsolver++" has +1/2, and is followed
    half = 0.5 if algorithm == "sde-dpmsolver++" else -0.5
    phi2 = scale * ((math.expm1(k) - k) / (k * k) + half)
    return Coefficients(ratio, phi0, phi1, phi2, noise)


def _expansion(m: Sequence[Sample], nodes: Sequence[Node], c: Coefficients) -> Sample:
    """phi0 D0 + phi1 D1 + phi2 D2, gathered by output so that each is read once."""
    if len(m) == 1:
        return c.phi0 * m[0]
    lambdas = [node.half_log_snr for node in nodes]
    h = lambdas[0] - lambdas[1]
    r0 = (lambdas[1] - lambdas[2]) / h
    if len(m) == 2:
        d1 = c.phi1 / r0
        return (c.phi0 + d1) * m[0] - d1 * m[1]
    r1 = (lambdas[2] - lambdas[3]) / h
    share = r0 / (r0 + r1)
    # weights of (m0 - m1) and (m1 - m2)
    first = (c.phi1 * (1.0 + share) + c.phi2 / (r0 + r1)) / r0
    second = -(c.phi1 * share + c.phi2 / (r0 + r1)) / r1
    expanded: Sample = (c.phi0 + first) * m[0] + (second - first) * m[1] - second * m[2]
    return expanded
