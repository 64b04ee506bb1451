"""Measures the order of convergence of the deterministic schedulers, on an ODE with a known solution.

python benchmarks/order_of_convergence.py [--plot FILE.svg] [--json FILE]

For data distributed as N(0, s^2) the ideal model is known, and so is the path that every solver approximates
(Song et al. 2021, equation 13, https://arxiv.org/abs/2011.13456): with x = alpha x0 + sigma e,

    e(x, t) = sigma x / (alpha^2 s^2 + sigma^2)        x(t) = x(T) sqrt(v(t) / v(T)),  v = alpha^2 s^2 + sigma^2.

The error is the largest one, relative to the solution, of the samples fed to the model down to the timestep `LAST`
(below it sigma falls by a factor a step, and no solver is in its range of convergence). The order is the slope of its
logarithm over the logarithm of the number of model calls. Multistep solvers start with lower orders, which bounds the
order over the whole path to about 2.
"""

import argparse
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffoundry.runtime.schedulers import scheduler_class, scheduler_names

SPREAD = 0.5
STEPS = (20, 25, 40, 50, 100)
LAST = 200
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass(frozen=True, kw_only=True)
class Solver:
    """A scheduler with its options, and the order claimed by its paper."""

    name: str
    order: float
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name and options, for tables and plots."""
        extra = ", ".join(str(value) for key, value in self.options.items() if key.startswith(("solver", "algorithm")))
        return self.name.removesuffix("Scheduler") + (f" ({extra})" if extra else "")


SOLVERS = (
    Solver(name="DDIMScheduler", order=1, options={"clip_sample": False, "timestep_spacing": "leading"}),
    Solver(name="EulerDiscreteScheduler", order=1),
    Solver(name="HeunDiscreteScheduler", order=2),
    Solver(name="KDPM2DiscreteScheduler", order=2),
    Solver(name="DPMSolverMultistepScheduler", order=1, options={"solver_order": 1}),
    Solver(name="DPMSolverMultistepScheduler", order=2, options={"solver_order": 2}),
    Solver(name="DPMSolverMultistepScheduler", order=3, options={"solver_order": 3}),
    Solver(name="UniPCMultistepScheduler", order=2, options={"solver_order": 2}),
    Solver(name="UniPCMultistepScheduler", order=3, options={"solver_order": 3}),
    Solver(name="DEISMultistepScheduler", order=2, options={"solver_order": 2}),
    Solver(name="DEISMultistepScheduler", order=3, options={"solver_order": 3}),
)


def _model_tables() -> tuple[np.ndarray, np.ndarray]:
    betas = np.linspace(BETAS["beta_start"] ** 0.5, BETAS["beta_end"] ** 0.5, 1000) ** 2
    alphas_cumprod = np.cumprod(1 - betas)
    return np.arange(1000.0), 0.5 * np.log((1 - alphas_cumprod) / alphas_cumprod)


def error_of(solver: Solver, steps: int) -> tuple[int, float]:
    """Compute model calls and relative error of one run, in float64."""
    scheduler = scheduler_class(solver.name)(**BETAS, **solver.options)
    scheduler.set_timesteps(steps)
    times, log_sigmas = _model_tables()
    variance_exploding = scheduler.init_noise_sigma > 1.001

    def alpha_sigma(timestep: float) -> tuple[float, float]:
        ratio = math.exp(float(np.interp(timestep, times, log_sigmas)))
        alpha = 1 / math.sqrt(1 + ratio * ratio)
        return alpha, ratio * alpha

    def solution(timestep: float) -> float:
        alpha, sigma = alpha_sigma(timestep)
        spread = math.sqrt(alpha**2 * SPREAD**2 + sigma**2)
        return spread / alpha if variance_exploding else spread

    timesteps = [float(timestep) for timestep in scheduler.timesteps]
    sample = np.array([solution(timesteps[0])])
    worst = 0.0
    for timestep, exact in zip(scheduler.timesteps, timesteps, strict=True):
        if exact >= LAST:
            worst = max(worst, abs(float(sample[0]) / solution(exact) - 1))
        scaled = scheduler.scale_model_input(sample, timestep)
        alpha, sigma = alpha_sigma(exact)
        output = sigma * scaled / (alpha**2 * SPREAD**2 + sigma**2)
        sample = scheduler.step(output, timestep, sample).prev_sample
    return len(timesteps), worst


def order_of(solver: Solver) -> tuple[float, list[tuple[int, float]]]:
    """Fit the order, and return it with the fitted points."""
    points = [error_of(solver, steps) for steps in STEPS]
    calls, errors = zip(*points, strict=True)
    return -float(np.polyfit(np.log(calls), np.log(errors), 1)[0]), points


def main() -> None:
    """Print the table; draw the plot and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    print(f"{'solver':<40}{'claimed':>8}{'measured':>10}{'error at ' + str(STEPS[-1]) + ' steps':>22}")
    for solver in SOLVERS:
        if solver.name not in scheduler_names():
            continue
        order, points = order_of(solver)
        results[solver.label] = {"claimed": solver.order, "measured": order, "points": points}
        print(f"{solver.label:<40}{solver.order:>8g}{order:>10.2f}{points[-1][1]:>22.2e}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if arguments.plot:
        _plot(results, arguments.plot)


def _plot(results: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for label, result in results.items():
        calls, errors = zip(*result["points"], strict=True)
        axes.loglog(calls, errors, marker="o", markersize=3, label=f"{label}: {result['measured']:.1f}")
    axes.set_xlabel("model calls")
    axes.set_ylabel("largest relative error")
    axes.legend(fontsize=7, title="measured order")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
