"""Brownian paths: noise for a step that is the same however finely the levels around it are chosen."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random import TorchCpuGenerator
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample

__all__ = ["BrownianNoise", "BrownianPath", "path_seed"]

_DIGITS = 6  # times are rounded to these, so that halving ends
_POOL = 24  # words of entropy that the seeds are mixed in


class _Interval(NamedTuple):
    """A node of the tree of halves: its ends, and its place as number `key` of the 2^depth intervals of that depth."""

    start: float
    end: float
    key: int = 0
    depth: int = 0


class BrownianPath:
    """One Brownian path W over [start, end], the same for the same seed, whatever the order of queries.

    W(end) - W(start) is drawn first. An interval of which a part is needed is halved at m, with

        W(m) - W(s) = (m - s) / (e - s) (W(e) - W(s)) + sqrt((m - s) (e - m) / (e - s)) z

    and z from a seed of the interval's own, until the parts add up to the queried interval.

    Kidger et al. 2021, section 4 and appendix E, https://arxiv.org/abs/2105.13493 (`torchsde.BrownianInterval` with
    `halfway_tree`, `tol` 1e-6 and `pool_size` 24, number for number: torch's CPU generator, NumPy's `SeedSequence`).
    """

    def __init__(self, start: float, end: float, shape: Sequence[int], seed: int) -> None:
        """Draw the whole path's increment.

        Args:
            start: first time.
            end: last time.
            shape: of W.
            seed: not negative.
        """
        self.shape, self.seed = tuple(shape), seed
        self._root = _Interval(round(start, _DIGITS), round(end, _DIGITS))
        first = np.random.SeedSequence(seed, pool_size=_POOL).generate_state(3)[0]
        self._whole = self._normal(int(first)) * math.sqrt(end - start)
        # left halves of the last question, most of which the next one goes through again
        self._known: dict[tuple[int, int], Float32Array] = {}

    def increment(self, a: float, b: float) -> Float32Array:
        """W(b) - W(a) for a <= b, float32, of `shape`; times outside [start, end] count as its ends."""
        low, high = self._root[:2]
        a, b = (round(min(max(time, low), high), _DIGITS) for time in (a, b))
        if a == b:
            return np.zeros(self.shape, dtype=np.float32)
        visited: dict[tuple[int, int], Float32Array] = {}
        parts = self._parts(self._root, self._whole, a, b, visited)
        self._known = visited
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _parts(
        self, node: _Interval, whole: Float32Array, a: float, b: float, visited: dict[tuple[int, int], Float32Array]
    ) -> list[Float32Array]:
        """The increments of the intervals that [a, b] within a node is made of, in order."""
        if (a, b) == node[:2]:
            return [whole]
        middle = round(0.5 * (node.end + node.start), _DIGITS)
        left = _Interval(node.start, middle, 2 * node.key, node.depth + 1)
        right = _Interval(middle, node.end, 2 * node.key + 1, node.depth + 1)
        place = (left.depth, left.key)
        half = self._known[place] if place in self._known else self._left_half(node, middle, whole)
        visited[place] = half
        if b <= middle:
            return self._parts(left, half, a, b, visited)
        if a >= middle:
            return self._parts(right, whole - half, a, b, visited)
        return [
            *self._parts(left, half, a, middle, visited),
            *self._parts(right, whole - half, middle, b, visited),
        ]

    def _left_half(self, node: _Interval, middle: float, whole: Float32Array) -> Float32Array:
        sequence = np.random.SeedSequence(self.seed, spawn_key=(node.key, node.depth), pool_size=_POOL)
        z = self._normal(int(sequence.generate_state(4)[0]))
        left, right, inverse = middle - node.start, node.end - middle, 1.0 / (node.end - node.start)
        return left * whole * inverse + math.sqrt(left * right * inverse) * z

    def _normal(self, seed: int) -> Float32Array:
        return TorchCpuGenerator(seed).randn(self.shape).astype(np.float32, copy=False)


class BrownianNoise:
    """Standard normal noise for steps between noise levels: the increment of a path over them, over its deviation.

    diffusers: `BrownianTreeNoiseSampler`, `BatchedBrownianTree`.
    """

    def __init__(self, shape: Sequence[int], low: float, high: float, seed: int | Sequence[int]) -> None:
        """Plan one path for the whole batch, or one for each image.

        Args:
            shape: of the sample, (B, ...).
            low: lowest noise level.
            high: highest noise level.
            seed: of the batch's path, or a list of B seeds.

        Raises:
            InputError: a list of another length than B.
        """
        start, end = (float(np.float32(level)) for level in (low, high))
        self._paths: tuple[BrownianPath, ...]
        self._batched = not isinstance(seed, int)
        if isinstance(seed, int):
            self._paths = (BrownianPath(start, end, shape, seed),)
            return
        if len(seed) != shape[0]:
            raise InputError(f"Brownian noise: got {len(seed)} generators for a batch of {shape[0]}, expected as many.")
        self._paths = tuple(BrownianPath(start, end, shape[1:], each) for each in seed)

    def __call__(self, sigma: float, sigma_next: float, sample: Sample) -> Sample:
        """The noise of the step from sigma down to sigma', in a sample's shape and dtype; zeros where that is not down.

        It is minus the increment over that, as the step goes down.
        """
        if sigma <= sigma_next:
            return np.zeros_like(sample)
        parts = [path.increment(sigma_next, sigma) for path in self._paths]
        noise = np.stack(parts) if self._batched else parts[0]
        return noise.astype(sample.dtype, copy=False) * (-1.0 / math.sqrt(sigma - sigma_next))


def path_seed(generator: Generator) -> int | list[int]:
    """The seed or seeds of the paths: those that the generators were made with, or an arbitrary one."""
    if generator is None:
        return int(np.random.default_rng().integers(2**63 - 1))
    if isinstance(generator, Sequence):
        return [each.seed for each in generator]
    return generator.seed
