"""Caches of a denoising loop: which steps call the denoiser, and forecasts of its output in the others."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np

from diffoundry.runtime.models.protocols import FloatArray

__all__ = ["Calls", "Forecast", "NoiseLevel", "SeaCalls", "TaylorCalls", "wiener_filter"]

NoiseLevel = Callable[[float], tuple[float, float]]
"""Timestep of the current step -> factors of the clean sample and of the noise in its latents."""


class Calls(Protocol):
    """Decides which steps of one run call the denoiser."""

    def __call__(self, latents: FloatArray, timestep: float, index: int) -> bool:
        """Return whether a step calls the denoiser; called once for each step, in order.

        Args:
            latents: Scaled, (B, ...).
            timestep: Of the step.
            index: Index of the step.
        """


class Forecast:
    """Extrapolates outputs of the denoiser by a polynomial in the number of the step.

    Liu et al. 2025, TaylorSeer, https://arxiv.org/abs/2503.06923, for the output of the whole network; diffusers'
    `TaylorSeerCacheConfig` does it for the outputs of blocks.
    """

    def __init__(self, order: int) -> None:
        """Keep nothing yet.

        Args:
            order: Degree of the polynomial: 0 takes the last output as it is, 1 is linear.
        """
        self._known: deque[tuple[int, FloatArray]] = deque(maxlen=order + 1)

    def __bool__(self) -> bool:
        """Return whether an output is kept."""
        return bool(self._known)

    def keep(self, output: FloatArray, index: int) -> None:
        """Take the output of a step that called the denoiser, (B, ...)."""
        self._known.append((index, output))

    def __call__(self, index: int) -> FloatArray:
        """Return the forecast for a step: Lagrange's polynomial through the outputs that are kept."""
        total: FloatArray | None = None
        for own, output in self._known:
            others = [other for other, _ in self._known if other != own]
            weight = np.float32(np.prod([(index - other) / (own - other) for other in others]))
            total = weight * output if total is None else total + weight * output
        assert total is not None, "the first step calls the denoiser"
        return total


class TaylorCalls:
    """Calls the denoiser in the first steps, in every n-th, and in the last ones, whose outputs change most."""

    def __init__(self, first: int, interval: int, final: int, total: int) -> None:
        """Take the numbers of steps.

        Args:
            first: Steps at the start, so many that there is a polynomial.
            interval: n.
            final: Steps at the end.
            total: Of the loop.
        """
        self._first, self._interval, self._final = first, interval, total - final

    def __call__(self, latents: FloatArray, timestep: float, index: int) -> bool:  # noqa: ARG002
        """See `Calls`."""
        return index < self._first or index >= self._final or index % self._interval == 0


class SeaCalls:
    """Calls the denoiser when the latents have changed enough since it was last called.

    Their relative change from step to step is added up, after a Wiener filter of the step's noise, so that changed
    noise counts less than changed content. SeaCache, https://arxiv.org/abs/2602.18993, which filters the input of the
    first block; this takes the scaled latents, which every network has. Of several images the one that changes most
    decides for all.
    """

    def __init__(self, first: int, threshold: float, final: int, total: int, noise_level: NoiseLevel) -> None:
        """Compare nothing yet.

        Args:
            first: As `TaylorCalls`.
            threshold: Sum of relative changes from which the denoiser is called.
            final: As `TaylorCalls`.
            total: As `TaylorCalls`.
            noise_level: Of each step.
        """
        self._first, self._threshold, self._final = first, threshold, total - final
        self._noise_level = noise_level
        self._previous: FloatArray | None = None
        self._changed = 0.0

    def __call__(self, latents: FloatArray, timestep: float, index: int) -> bool:
        """See `Calls`."""
        filtered = wiener_filter(latents, *self._noise_level(timestep))
        if self._previous is not None:
            self._changed += _relative_change(filtered, self._previous)
        self._previous = filtered
        called = index < self._first or index >= self._final or self._changed >= self._threshold
        if called:
            self._changed = 0.0
        return called


def wiener_filter(latents: FloatArray, signal: float, noise: float) -> FloatArray:
    """Return latents without most of their noise, as the best linear filter leaves them.

    The power of natural images falls with the square of the frequency; that of the noise is the same everywhere.

    Args:
        latents: (B, C, h, w); those of another shape are returned as they are.
        signal: Factor of the clean sample in the latents.
        noise: Factor of the noise.
    """
    if latents.ndim != 4:
        return latents
    height, width = latents.shape[2:]
    squared = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width)[None] ** 2
    power = 1.0 / np.maximum(squared, 1.0 / max(height, width) ** 2)
    power *= signal**2 / power.mean()
    response = power / (power + max(noise**2, 1e-12))
    filtered: FloatArray = np.fft.irfft2(np.fft.rfft2(latents) * response, s=(height, width)).astype(np.float32)
    return filtered


def _relative_change(new: FloatArray, old: FloatArray) -> float:
    axes = tuple(range(1, new.ndim))
    change = np.abs(new - old).mean(axis=axes) / np.maximum(np.abs(old).mean(axis=axes), 1e-12)
    return float(change.max())
