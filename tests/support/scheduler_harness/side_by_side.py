"""One run of a scheduler in diffusers and here, step by step, with the same model and the same noise."""

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import schedulers as reference
from scheduler_harness.correct_rounding import CorrectRounding
from scheduler_harness.declaration import Case, Declaration
from scheduler_harness.double_precision import DoublePrecision, to_double

from diffoundry.runtime.random import TorchCpuGenerator
from diffoundry.runtime.schedulers import scheduler_class

SHAPE = (3, 4, 8)
SEED = 11


class RoundedNoise:
    """torch's float32 noise, also for float64 samples: `DoublePrecision` does the same to diffusers."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.source = TorchCpuGenerator(seed)

    def randn(self, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """Draw in float32, return in dtype."""
        return self.source.randn(shape).astype(dtype)


@dataclass
class Trajectory:
    """The run of one library: the schedule, and after each step the sample and the predicted clean sample.

    `peaks` are the largest magnitudes so far, up to and with each step, of anything that is computed with: the sample,
    and the noise that is taken off it to get x0.
    """

    scheduler: Any
    timesteps: np.ndarray
    sigmas: np.ndarray | None
    init_noise_sigma: float
    samples: list[np.ndarray]
    predicted: list[np.ndarray | None]
    peaks: list[float]


def model(sample: np.ndarray, timestep: float, channels: int) -> np.ndarray:
    """A smooth, bounded, nonlinear function as a network; float64 inside, so that both sides get the same float32.

    The channels beyond the sample's are a learned variance: positive, as "learned" takes its root.
    """
    x, t, dtype = sample.astype(np.float64), float(timestep), sample.dtype
    mean = np.tanh(0.8 * x + 0.1 * np.roll(x, 1, axis=-1)) * np.cos(0.003 * t) + 0.2 * np.sin(x + 0.002 * t)
    if channels == x.shape[1]:
        return mean.astype(dtype)
    return np.concatenate([mean, 0.5 + 0.4 * np.tanh(x - 0.001 * t)], axis=1).astype(dtype)


def start(batch: int) -> np.ndarray:
    """The first noise, the same for both."""
    return np.random.default_rng(5).standard_normal((batch, *SHAPE), dtype=np.float32)


def takes_generator(scheduler: Any) -> bool:
    """True where `step` draws noise; the schedulers of score-based models have no `step` and their own loops."""
    return hasattr(scheduler, "step") and "generator" in inspect.signature(scheduler.step).parameters


def begin_index(scheduler: Any, case: Case) -> int:
    """Index of the first timestep of an image-to-image run, a multiple of the order as in pipelines."""
    order = getattr(scheduler, "order", 1)
    return int(case.begin * (len(scheduler.timesteps) // order)) * order


def init_noise_sigma(scheduler: Any) -> float:
    """Factor of the first noise; one for the flow matching classes of diffusers, which do not have it."""
    return float(getattr(scheduler, "init_noise_sigma", 1.0))


SLOW_CONSTRUCTORS = {
    f"{name}Scheduler"
    for name in ("DPMSolverSDE", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LMSDiscrete")
}
"""Classes of diffusers that plan a run of all the training steps when they are made, which may take a second."""


@contextmanager
def quick_constructor(name: str) -> Iterator[None]:
    """Let them plan a run of two steps, which no test reads."""
    cls = getattr(reference, name)
    if name not in SLOW_CONSTRUCTORS:
        yield
        return
    plan = cls.set_timesteps
    with patch.object(cls, "set_timesteps", lambda self, steps, *arguments: plan(self, 2, *arguments)):
        yield


def make_theirs(name: str, options: dict[str, Any]) -> Any:
    """A scheduler of diffusers, not planned."""
    with warnings.catch_warnings(), quick_constructor(name):
        warnings.simplefilter("ignore")  # deprecated algorithm types
        return getattr(reference, name)(**options)


REMEMBERED = 200
"""Results that are kept: the runs of one declaration, which the tests of one table share."""


def _remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its last results kept, by the identity of declaration and case."""
    kept: dict[tuple[int, int, bool], tuple[Any, Any]] = {}

    @wraps(function)
    def remembering(declaration: Declaration, case: Case, *, double: bool = False) -> Any:
        key = id(declaration), id(case), double
        if key not in kept:
            if len(kept) >= REMEMBERED:
                del kept[next(iter(kept))]
            # the declaration and case are kept alive, and with them their identities
            kept[key] = function(declaration, case, double=double), (declaration, case)
        return kept[key][0]

    return remembering


@_remembered
def _planned(declaration: Declaration, case: Case, *, double: bool) -> Any:
    assert not double, "the schedule is the same"
    with CorrectRounding():
        scheduler = make_theirs(declaration.name, case.options)
        scheduler.set_timesteps(**case.set_timesteps)
    set_begin(scheduler, case)
    return scheduler


def set_begin(scheduler: Any, case: Case) -> None:
    """`set_begin_index` for a start in the middle.

    Also where the first timestep repeats: a run that looks it up begins at the second of them, to skip no sigma,
    and then runs off the end, here as in diffusers. Pipelines that set the begin index do not.
    """
    twice = bool((scheduler.timesteps[1:] == scheduler.timesteps[0]).any())
    if (case.begin or twice) and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin_index(scheduler, case))


def plan_theirs(declaration: Declaration, case: Case) -> Any:
    """A scheduler of diffusers, ready for its first step, its schedule computed with `CorrectRounding`."""
    return copy.deepcopy(_planned(declaration, case))


def plan_ours(declaration: Declaration, case: Case) -> Any:
    """Ours, ready for its first step."""
    scheduler = scheduler_class(declaration.name)(**case.options)
    scheduler.set_timesteps(**case.set_timesteps)
    set_begin(scheduler, case)
    return scheduler


def run_theirs(declaration: Declaration, case: Case, *, double: bool = False) -> Trajectory:
    """The whole run in diffusers: the schedule with `CorrectRounding`, the steps as they are or in `DoublePrecision`.

    `rescale_betas_zero_snr` subtracts nearly equal roots: there the last bits of torch's own square roots, which no
    two machines share, grow to 4e-4 of a sigma.
    """
    scheduler = plan_theirs(declaration, case)
    channels = declaration.output_channels(case)
    arguments = dict(case.step)
    if takes_generator(scheduler):
        arguments["generator"] = torch.Generator().manual_seed(SEED)

    def net(sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        return torch.from_numpy(model(sample.numpy(), float(timestep), channels))

    sample = torch.from_numpy(start(case.batch)) * init_noise_sigma(scheduler)
    if not double:
        with CorrectRounding() if declaration.rounded_steps else nullcontext():
            return _follow(declaration, case, scheduler, sample, net, arguments)
    to_double(scheduler)
    with DoublePrecision():
        return _follow(declaration, case, scheduler, sample.double(), net, arguments)


@_remembered
def run_ours(declaration: Declaration, case: Case, *, double: bool = False) -> Trajectory:
    """The whole run here, in float32 or float64."""
    scheduler = plan_ours(declaration, case)
    channels = declaration.output_channels(case)
    arguments = dict(case.step)
    if takes_generator(scheduler):
        arguments["generator"] = RoundedNoise(SEED)
    dtype = np.float64 if double else np.float32

    def net(sample: np.ndarray, timestep: Any) -> np.ndarray:
        assert sample.dtype == dtype, "a coefficient widened the sample"
        return model(sample, float(timestep), channels)

    sample = (start(case.batch) * scheduler.init_noise_sigma).astype(dtype)
    return _follow(declaration, case, scheduler, sample, net, arguments)


def _follow(
    declaration: Declaration, case: Case, scheduler: Any, sample: Any, net: Any, arguments: dict[str, Any]
) -> Trajectory:
    first = begin_index(scheduler, case)
    sigmas = getattr(scheduler, "sigmas", None)
    trajectory = Trajectory(
        scheduler=scheduler,
        timesteps=np.asarray(scheduler.timesteps),
        sigmas=None if sigmas is None else np.asarray(sigmas),
        init_noise_sigma=init_noise_sigma(scheduler),
        samples=[],
        predicted=[],
        peaks=[],
    )
    peak = float(np.abs(np.asarray(sample)).max()) + _gain(scheduler)
    loop = declaration.loop or usual_loop
    for result in loop(scheduler, sample, net, arguments, first):
        trajectory.samples.append(np.asarray(result.prev_sample))
        peak = max(peak, float(np.abs(trajectory.samples[-1]).max()))
        trajectory.peaks.append(peak)
        predicted = getattr(result, declaration.predicted, None)
        trajectory.predicted.append(None if predicted is None else np.asarray(predicted))
    return trajectory


def _gain(scheduler: Any) -> float:
    """Factor of epsilon, of magnitude one, at the start of the run: sigma / alpha."""
    if getattr(scheduler, "sigmas", None) is not None:
        sigma = float(np.max(np.asarray(scheduler.sigmas)))
        return sigma / (1.0 - sigma) if scheduler.config.get("use_flow_sigmas") and sigma < 1.0 else sigma
    alpha_bar = getattr(scheduler, "alphas_cumprod", None)
    timesteps = np.asarray(scheduler.timesteps)
    if alpha_bar is None or timesteps.dtype != np.int64:
        return 1.0
    return float(1.0 / np.sqrt(max(1e-9, np.asarray(alpha_bar)[timesteps].min())))


def usual_loop(scheduler: Any, sample: Any, net: Any, arguments: dict[str, Any], first: int) -> Iterator[Any]:
    """The sampling loop of every diffusers pipeline; yields each step's result."""
    scales = hasattr(scheduler, "scale_model_input")  # the flow matching classes of diffusers have none
    for timestep in scheduler.timesteps[first:]:
        fed = scheduler.scale_model_input(sample, timestep) if scales else sample
        result = scheduler.step(net(fed, timestep), timestep, sample, **arguments)
        sample = result.prev_sample
        yield result


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the largest magnitude of the reference, at least one."""
    return error_beyond(ours, theirs, 0.0)


def error_beyond(ours: np.ndarray, theirs: np.ndarray, allowance: float) -> float:
    """The same after taking an absolute allowance off the difference.

    What is not a number is no result: as an error it would compare as small.
    """
    assert np.isfinite(ours).all(), "ours holds what is not finite"
    assert np.isfinite(theirs).all(), "diffusers' holds what is not finite: keep() lets a case through"
    difference = float(np.max(np.abs(ours - theirs)))
    return max(0.0, difference - allowance) / max(1.0, float(np.max(np.abs(theirs))))


def ulp_distance(ours: np.ndarray, theirs: np.ndarray) -> int:
    """Largest distance of two float32 arrays in units in the last place."""
    a, b = (np.asarray(x, dtype=np.float32).view(np.int32).astype(np.int64) for x in (ours, theirs))
    return int(np.max(np.abs(a - b), initial=0))
