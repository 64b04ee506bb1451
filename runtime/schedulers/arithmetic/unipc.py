"""The update of UniPC, predictor and corrector alike, for every scheduler that walks noise levels with it."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from diffoundry.runtime.schedulers.arithmetic.arrays import Sample
from diffoundry.runtime.schedulers.arithmetic.multistep import Node

__all__ = ["UniPCSolver", "read_unipc_solver", "unipc_update"]

UniPCSolver = Literal["bh1", "bh2"]


def read_unipc_solver(given: dict[str, Any]) -> dict[str, Any]:
    """Options with the solver types of DPM-Solver and DEIS replaced, as the constructors of diffusers do."""
    other = given.get("solver_type") in ("midpoint", "heun", "logrho")
    return {**given, "solver_type": "bh2"} if other else given


def unipc_update(
    sample: Sample,
    outputs: Sequence[Sample],
    nodes: Sequence[Node],
    *,
    predict_x0: bool,
    solver_type: UniPCSolver,
    reached: Sample | None = None,
) -> Sample:
    """UniPC of order p = the number of outputs, on x0 (`predict_x0`) or on epsilon.

        x' = c x - g (e^k - 1) m_0 - g B sum_j rho_j D_j,    D_j = (m_j - m_0) / r_j,    h = lambda' - lambda
        sum_j rho_j r_j^(i-1) = b_i,    i = 1, 2, ...    r_j = (lambda_j - lambda) / h

    m_j is the model's x0 or epsilon at the j-th level before this one (k = -h, c = sigma' / sigma, g = alpha' on x0;
    k = h, c = alpha' / alpha, g = sigma' on epsilon). The predictor has j = 1 .. p - 1. The corrector goes over the
    same step again with the output at its end, too: j = 1 .. p, r_p = 1. B = k ("bh1") or e^k - 1 ("bh2") drops out
    except where one rho is set to 1/2 instead of solved for: predictor p = 2, corrector p = 1.

    Zhao et al. 2023, Algorithms 1 to 4, https://arxiv.org/abs/2302.04867. diffusers: `multistep_uni_p_bh_update`,
    `multistep_uni_c_bh_update`, `rks`, `rhos_p`, `rhos_c`, `B_h`.

    Args:
        sample: x at the second node.
        outputs: m_0, m_1, .., newest first.
        nodes: the level to reach, and those of the outputs.
        predict_x0: what the outputs are.
        solver_type: B.
        reached: the model's output at the level to reach, for the corrector.
    """
    to, start = nodes[0], nodes[1]
    h = to.half_log_snr - start.half_log_snr
    if predict_x0:
        k, ratio, scale = -h, to.sigma / start.sigma, to.alpha
        growth = scale * math.expm1(k)
    else:
        k, ratio, scale = h, to.alpha / start.alpha, to.sigma
        # at sigma' = 0 the limit, where diffusers has 0 * inf
        growth = scale * math.expm1(k) if scale > 0.0 else to.alpha * start.sigma / start.alpha
    ratios = [(node.half_log_snr - start.half_log_snr) / h for node in nodes[2:]]
    others = list(outputs[1:])
    if reached is not None:
        ratios.append(1.0)
        others.append(reached)
    weights = [scale * rho / r for rho, r in zip(_rhos(ratios, k, solver_type), ratios, strict=True)]
    following = ratio * sample - (growth - sum(weights)) * outputs[0]
    for weight, output in zip(weights, others, strict=True):
        following = following - weight * output
    return following


def _rhos(ratios: Sequence[float], k: float, solver_type: UniPCSolver) -> list[float]:
    """B rho_j: the solution of the order conditions, or B / 2 where there is one."""
    count = len(ratios)
    if count == 1:
        return [0.5 * (k if solver_type == "bh1" else math.expm1(k))]
    moments, phi, factorial = [], math.expm1(k) / k - 1.0 if count else 0.0, 1
    for i in range(1, count + 1):
        moments.append(phi * factorial)
        factorial *= i + 1
        phi = phi / k - 1.0 / factorial
    powers = np.vander(ratios, increasing=True).T
    solved: list[float] = np.linalg.solve(powers, moments).tolist() if count else []
    return solved
