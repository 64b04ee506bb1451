"""Chooses where a list of nodes is cut into pieces, for any kind of graph."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import TypeVar

__all__ = ["WHOLE", "cut_places", "pack", "piece_limit"]

WHOLE = 3
"""Memory of an open piece in sizes of its weights: as they are stored, as float32, and in the layout of the kernels."""

_PIECE = 8
"""Part of the memory that the weights of a piece take at most. Smaller pieces cost nothing; the rest is for values."""

Name = TypeVar("Name")


def piece_limit(memory: int | None, weights: int) -> int | None:
    """Return the bytes of weights of a piece at most; None where a graph is one piece and is opened whole.

    Values may take more than weights, and are not known yet. A graph of several pieces may be opened whole later, when
    a call has shown what they take: `MeasuredCalls`.

    Args:
        memory: Bytes that the graph may take, or None for any number.
        weights: Bytes of its weights, as float32.
    """
    return memory // _PIECE if memory is not None and weights > memory // _PIECE else None


def cut_places(count: int, spans: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Yield the numbers of nodes before which a list may be cut, in order.

    Args:
        count: Nodes of the list.
        spans: Nodes that make and last read each value that no cut may cross.
    """
    reach = [0] * count
    for made, last in spans:
        reach[made] = max(reach[made], last)
    furthest = 0
    for place in range(count - 1):
        furthest = max(furthest, reach[place])
        if furthest <= place:
            yield place + 1


def pack(
    places: Iterable[int], count: int, weights: Callable[[int, int], Mapping[Name, int]], most: int
) -> list[tuple[int, int, int]]:
    """Join the nodes between places to pieces, as many as fit.

    Args:
        places: Numbers of nodes, in order.
        count: Nodes of the list.
        weights: Begin and end -> the weights that these nodes read, with their bytes.
        most: Bytes of a piece, which one that cannot be cut may exceed.

    Returns:
        Begin, end and bytes of each piece.
    """
    pieces: list[tuple[int, int, int]] = []
    begin = 0
    held: dict[Name, int] = {}
    for start, end in pairwise((0, *places, count)):
        more = weights(start, end)
        if start > begin and sum((held | dict(more)).values()) > most:
            pieces.append((begin, start, sum(held.values())))
            begin, held = start, {}
        held |= more
    return [*pieces, (begin, count, sum(held.values()))]
