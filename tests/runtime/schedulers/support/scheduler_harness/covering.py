"""Covering arrays: few rows in which every pair of factor values occurs."""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[Any, Any]
_Indices = dict[Any, int]
_Pair = frozenset[tuple[Any, int]]

_TRIES = 30
"""Completions of a pair that are tried before it counts as forbidden by `keep`."""


def covering_rows(
    factors: Mapping[Any, Sequence[Any]], *, keep: Callable[[Row], bool] = lambda row: True, at_least: int = 0
) -> list[Row]:
    """Rows such that each pair of values of two factors occurs in one, as far as `keep` allows.

    Greedy: start from an uncovered pair, then give each other factor the value that covers the most pairs still
    uncovered. The seed is fixed, so that a row keeps its number.

    Args:
        factors: name to values.
        keep: whether a row is a case that can be run.
        at_least: fill up with random rows to this number, as far as there are distinct ones.
    """
    rng = random.Random(0)

    def allowed(row: _Indices) -> bool:
        return keep({name: factors[name][i] for name, i in row.items()})

    chosen: list[_Indices] = []
    uncovered = set(_all_pairs(factors))
    for pair in _all_pairs(factors):
        if pair not in uncovered:
            continue
        completions = (_complete(dict(pair), factors, uncovered, rng) for _ in range(_TRIES))
        row = next(filter(allowed, completions), None)
        if row is not None:
            chosen.append(row)
            uncovered -= _pairs_of(row)
        uncovered.discard(pair)
    for _ in range(200 * at_least):
        if len(chosen) >= at_least:
            break
        row = {name: rng.randrange(len(values)) for name, values in factors.items()}
        if row not in chosen and allowed(row):
            chosen.append(row)
    return [{name: factors[name][row[name]] for name in factors} for row in chosen]


def _all_pairs(factors: Mapping[Any, Sequence[Any]]) -> list[_Pair]:
    return [
        frozenset({(a, i), (b, j)})
        for a, b in itertools.combinations(factors, 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
    ]


def _pairs_of(row: _Indices) -> set[_Pair]:
    return {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}


def _complete(
    row: _Indices, factors: Mapping[Any, Sequence[Any]], uncovered: set[_Pair], rng: random.Random
) -> _Indices:
    missing = [name for name in factors if name not in row]
    rng.shuffle(missing)
    for name in missing:
        gains = [
            sum(frozenset({(name, i), fixed}) in uncovered for fixed in row.items()) + 0.5 * rng.random()
            for i in range(len(factors[name]))
        ]
        row[name] = gains.index(max(gains))
    return row
