"""Covering arrays: few rows in which every pair of factor values occurs."""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[Any, Any]
_Places = dict[Any, int]
_Value = tuple[Any, int]
"""A factor and the place of one of its values."""

_GREEDY_TRIES, _RANDOM_TRIES = 30, 500
"""Completions of a pair that are tried before it counts as forbidden by `keep`."""


class _Uncovered:
    """The pairs that no row holds yet: for each value those that it is still to be seen with."""

    def __init__(self, factors: Mapping[Any, Sequence[Any]]) -> None:
        self._with: dict[_Value, set[_Value]] = {
            (name, i): {(other, j) for other in factors if other != name for j in range(len(factors[other]))}
            for name in factors
            for i in range(len(factors[name]))
        }

    def __contains__(self, pair: tuple[_Value, _Value]) -> bool:
        return pair[1] in self._with[pair[0]]

    def gain(self, value: _Value, row: _Places) -> int:
        """Number of pairs that a value would cover in a row."""
        return len(self._with[value].intersection(row.items()))

    def cover(self, row: _Places) -> None:
        """Take off the pairs of a row."""
        items = set(row.items())
        for item in items:
            self._with[item] -= items


def covering_rows(
    factors: Mapping[Any, Sequence[Any]],
    *,
    keep: Callable[[Row], bool] = lambda row: True,
    at_least: int = 0,
    further: int = 0,
) -> tuple[list[Row], list[Row]]:
    """Rows such that each pair of values of two factors occurs in one, as far as `keep` allows; and more rows.

    Greedy: start from an uncovered pair, then give each other factor the value that covers the most pairs still
    uncovered. The seed is fixed, so that a row keeps its number.

    Args:
        factors: name to values.
        keep: whether a row is a case that can be run.
        at_least: fill up with random rows to this number, as far as there are distinct ones.
        further: how many random rows beyond.

    Returns:
        the rows, and those beyond.
    """
    rng = random.Random(0)

    def values(row: _Places) -> Row:
        return {name: factors[name][i] for name, i in row.items()}

    uncovered, chosen = _Uncovered(factors), []
    for pair in _all_pairs(factors):
        if pair not in uncovered:
            continue
        greedy = (_complete(dict(pair), factors, uncovered, rng) for _ in range(_GREEDY_TRIES))
        blind = ({**_random(factors, rng), **dict(pair)} for _ in range(_RANDOM_TRIES))
        row = next((row for row in itertools.chain(greedy, blind) if keep(values(row))), None)
        if row is not None:
            chosen.append(row)
        uncovered.cover(dict(pair) if row is None else row)
    needed = max(len(chosen), at_least)
    known = {frozenset(row.items()) for row in chosen}
    for _ in range(200 * (needed + further)):
        if len(chosen) >= needed + further:
            break
        row = _random(factors, rng)
        if frozenset(row.items()) not in known and keep(values(row)):
            chosen.append(row)
            known.add(frozenset(row.items()))
    # in the order of the factors
    rows = [values({name: row[name] for name in factors}) for row in chosen]
    return rows[:needed], rows[needed:]


def chosen_rows(rows: Sequence[Row], count: int) -> list[int]:
    """Choose the rows that hold the most values not held by those before them, then the most pairs of values.

    Greedy; of equally good rows the first.

    Args:
        rows: by factor; values are compared by their text.
        count: number of rows, if there are as many.

    Returns:
        the places of the chosen rows.
    """
    texts = [{(str(name), str(value)) for name, value in row.items()} for row in rows]
    pairs = [set(itertools.combinations(sorted(text), 2)) for text in texts]
    seen_values: set[Any] = set()
    seen_pairs: set[Any] = set()
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        left = (i for i in range(len(rows)) if i not in chosen)
        best = max(left, key=lambda i: (len(texts[i] - seen_values), len(pairs[i] - seen_pairs), -i))
        chosen.append(best)
        seen_values |= texts[best]
        seen_pairs |= pairs[best]
    return chosen


def _random(factors: Mapping[Any, Sequence[Any]], rng: random.Random) -> _Places:
    return {name: rng.randrange(len(values)) for name, values in factors.items()}


def _all_pairs(factors: Mapping[Any, Sequence[Any]]) -> list[tuple[_Value, _Value]]:
    return [
        ((a, i), (b, j))
        for a, b in itertools.combinations(factors, 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
    ]


def _complete(row: _Places, factors: Mapping[Any, Sequence[Any]], uncovered: _Uncovered, rng: random.Random) -> _Places:
    missing = [name for name in factors if name not in row]
    rng.shuffle(missing)
    for name in missing:
        gains = [uncovered.gain((name, i), row) + 0.5 * rng.random() for i in range(len(factors[name]))]
        row[name] = gains.index(max(gains))
    return row
