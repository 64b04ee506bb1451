"""VQ-Diffusion: a diffusion over the classes of a vector-quantised image, which are masked one after the other."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime import random
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import FloatArray
from diffoundry.runtime.schedulers.base import Schedule, Scheduler
from diffoundry.runtime.schedulers.options import TrainingOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["VQDiffusionOptions", "VQDiffusionResult", "VQDiffusionScheduler"]

Tokens = NDArray[np.int64]
LogProbabilities = FloatArray

_TINY = 1e-30
_LOG_ZERO = float(np.log(np.float32(_TINY)))
"""A finite logarithm of zero, as in diffusers."""


class VQDiffusionResult(NamedTuple):
    """The result of a step of `VQDiffusionScheduler`.

    Attributes:
        prev_sample: the classes at the next timestep, int64, (B, P).
    """

    prev_sample: Tokens


@dataclass(frozen=True, kw_only=True)
class VQDiffusionOptions(TrainingOptions):
    """Options of `VQDiffusionScheduler`, named as in diffusers."""

    num_vec_classes: int
    num_train_timesteps: int = 100
    alpha_cum_start: float = 0.99999
    alpha_cum_end: float = 0.000009
    gamma_cum_start: float = 0.000009
    gamma_cum_end: float = 0.99999

    def check(self, owner: str) -> None:
        """Refuse a schedule without a first and a last step, and classes without one beside the mask."""
        super().check(owner)
        for name in ("num_train_timesteps", "num_vec_classes"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{owner}: option '{name}' is {getattr(self, name)}, expected at least 2.")


@dataclass(frozen=True)
class _Transitions:
    """Logarithms of the probabilities to keep a class (a, beyond b), to become any class (b), to be masked (c)."""

    a: list[float]
    b: list[float]
    c: list[float]

    @classmethod
    def of(cls, a: FloatArray, c: FloatArray, classes: int) -> "_Transitions":
        """The table of a and c; b is what is left, spread over the classes but the mask.

        Raises:
            ConfigError: nothing is left.
        """
        b = (1 - a - c) / (classes - 1)
        if b.min() < 0:
            raise ConfigError(
                f"VQDiffusionScheduler: the probabilities to keep and to mask a class add up to {(a + c).max():.7g}, "
                "expected at most 1: lower 'alpha_cum_start', 'alpha_cum_end', 'gamma_cum_start' or 'gamma_cum_end'."
            )
        with np.errstate(divide="ignore"):
            return cls(*(np.log(values).astype(np.float32).tolist() for values in (a, b, c)))


class VQDiffusionScheduler(Scheduler[VQDiffusionOptions]):
    """Mask-and-replace diffusion: the model predicts log p(x0), the next classes are drawn from the posterior.

        p(x_{t-1} | x_t) = sum over x0 of q(x_t | x_{t-1}) q(x_{t-1} | x0) / q(x_t | x0) p(x0)
        x_{t-1} = argmax of log p(x_{t-1} | x_t) + g,    g = -log(-log u), u uniform

    where one step keeps a class with probability a_t + b_t, makes it each other one with b_t and masks it with c_t,
    and a mask stays one. The last class is the mask; the model gives no probability for it.

    Gu et al. 2021, equations 5, 7, 8 and 11, https://arxiv.org/abs/2111.14822.
    diffusers: log a_t, b_t, c_t = `log_at`, .., their products from the start = `log_cumprod_at`, ...
    """

    Options = VQDiffusionOptions
    needed_loop = "the loop of VQDiffusionPipeline, whose samples are classes of image patches and not numbers"

    def _prepare(self) -> None:
        options = self.options
        steps, classes = options.num_train_timesteps, options.num_vec_classes
        place = np.arange(steps) / (steps - 1)
        kept = place * (options.alpha_cum_end - options.alpha_cum_start) + options.alpha_cum_start
        masked = place * (options.gamma_cum_end - options.gamma_cum_start) + options.gamma_cum_start
        before = np.append(1.0, kept[:-1]), np.append(1.0, 1.0 - masked[:-1])
        self._single = _Transitions.of(kept / before[0], 1 - (1 - masked) / before[1], classes)
        self._cumulative = _Transitions.of(kept, masked, classes)

    def _training_schedule(self) -> Schedule:
        return Schedule(np.arange(self.options.num_train_timesteps)[::-1].copy(), None, None)

    def _schedule(self, request: RunRequest) -> Schedule:
        steps, trained = request.steps, self.options.num_train_timesteps
        if steps > trained:
            raise InputError(
                f"VQDiffusionScheduler.set_timesteps: num_inference_steps is {steps}, expected at most "
                f"num_train_timesteps = {trained}, the number of timesteps that the model knows."
            )
        return Schedule(np.arange(steps)[::-1].copy(), None, steps)

    def step(  # type: ignore[override]  # its samples are classes
        self,
        model_output: LogProbabilities,
        timestep: int,
        sample: Tokens,
        *,
        generator: random.Generator | None = None,
    ) -> VQDiffusionResult:
        """Draw the classes of x_{t-1}.

        Args:
            model_output: log p(x0), float32, (B, classes - 1, P).
            timestep: t, one of `timesteps`.
            sample: the classes of x_t, int64, (B, P).
            generator: source of u; None draws unseeded ones.

        Returns:
            the classes of x_{t-1} as `prev_sample`, int64, (B, P).
        """
        t = int(timestep)
        log_p = model_output if t == 0 else self.q_posterior(model_output, sample, t)
        if generator is None:
            uniform: FloatArray = np.random.default_rng().random(log_p.shape, dtype=np.float32)
        else:
            uniform = generator.rand(log_p.shape)
        minus_g = uniform + _TINY
        np.log(minus_g, out=minus_g)
        np.subtract(_TINY, minus_g, out=minus_g)
        np.log(minus_g, out=minus_g)
        return VQDiffusionResult(_most_likely(log_p - minus_g))

    def q_posterior(self, log_p_x_0: LogProbabilities, x_t: Tokens, t: int) -> LogProbabilities:
        """The log probabilities of the classes of x_{t-1}.

        Args:
            log_p_x_0: log p(x0), float32, (B, classes - 1, P).
            x_t: classes, int64, (B, P).
            t: timestep, at least 1.

        Returns:
            float32, (B, classes, P); the last row is the mask's.
        """
        before = self._cumulative
        q = log_p_x_0.copy()
        self._add_likelihood(q, x_t, self._cumulative, t, sign=-1)
        peak = q.max(axis=1, keepdims=True)
        total = np.log(np.exp(q - peak).sum(axis=1, keepdims=True)) + peak
        q += before.a[t - 1] - total
        _log_add_exp(q, before.b[t - 1])
        self._add_likelihood(q, x_t, self._single, t, sign=1)
        log_p = np.empty((q.shape[0], q.shape[1] + 1, q.shape[2]), dtype=q.dtype)
        np.add(q, total, out=log_p[:, :-1])
        # from the mask only the mask follows
        is_mask = x_t == self.options.num_vec_classes - 1
        log_p[:, -1] = np.where(is_mask, 0.0, _LOG_ZERO).astype(q.dtype) + before.c[t - 1] + total[:, 0]
        return log_p

    def _add_likelihood(
        self, log_p: LogProbabilities, x_t: Tokens, transitions: _Transitions, t: int, *, sign: int
    ) -> None:
        """Add log q(x_t | x), or take it off, for each class x but the mask; log_p is (B, classes - 1, P)."""
        a, b, c = transitions.a[t], transitions.b[t], transitions.c[t]
        same, other = float(np.logaddexp(a, b)), float(np.logaddexp(a + _LOG_ZERO, b))
        is_mask = (x_t == self.options.num_vec_classes - 1)[:, np.newaxis]
        place = np.where(is_mask, 0, x_t[:, np.newaxis])
        kept = np.take_along_axis(log_p, place, axis=1) + sign * same
        log_p += sign * np.where(is_mask, c, other).astype(log_p.dtype)
        np.put_along_axis(log_p, place, np.where(is_mask, log_p[:, :1], kept), axis=1)


def _log_add_exp(x: LogProbabilities, y: float) -> None:
    """Set x to log(exp x + exp y), without overflow."""
    peak = np.maximum(x, y)
    x -= peak
    np.exp(x, out=x)
    x += np.exp(y - peak)
    np.log(x, out=x)
    x += peak


def _most_likely(log_p: LogProbabilities) -> Tokens:
    """The first class of the largest value: argmax over the middle axis, which NumPy's own walks the slow way."""
    images, classes, places = np.nonzero(log_p == log_p.max(axis=1, keepdims=True))
    tokens = np.zeros((log_p.shape[0], log_p.shape[2]), np.int64)
    tokens[images[::-1], places[::-1]] = classes[::-1]
    return tokens
