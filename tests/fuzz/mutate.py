"""Damages files, the same way for the same seed: bytes, lines, and the structure of JSON."""

import copy
import json
import math
from collections.abc import Iterator
from random import Random
from typing import Any

__all__ = ["mutate"]

_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 7, 64, 2**31, 2**63, -(2**63), 10**30, 10**400, 1e308, math.inf,
    -math.inf, math.nan, "", "x", "4", "null", "\ud800", "a\udfffb", "\x1b]0;owned\x07", "\0", "a" * 10_000,
    "../../etc", "/etc/passwd", "é" * 300, [], [[]], {}, {"": {}}, {"a": 1}, [0], [-1], [None], ["x"] * 3, [1.5, "x"],
    [64, 64], {"shortest_edge": -1}, {"content": 7}, [["a", "b"]], list(range(100)),
)  # fmt: skip
"""Values that a file may hold where another is expected."""

_DEEP = 2_000


def mutate(content: bytes, random: Random, *, kind: str) -> bytes:
    """Return a damaged copy.

    Args:
        content: The file.
        random: Source of the damage.
        kind: "json", "text" or "bytes".
    """
    if kind == "json" and random.random() < 0.8:
        return _mutate_json(content, random)
    if kind == "text" and random.random() < 0.6:
        return _mutate_lines(content, random)
    return _mutate_bytes(content, random)


def _mutate_bytes(content: bytes, random: Random) -> bytes:
    if not content:
        return random.randbytes(4)
    data = bytearray(content)
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    kind = random.randrange(7)
    if kind <= 1:  # flips, most of them near the beginning, where headers are
        for _ in range(random.choice((1, 1, 2, 8))):
            place = int(len(data) * random.random() ** 2)
            data[min(place, len(data) - 1)] ^= 1 << random.randrange(8)
    elif kind == 2:
        del data[start:]
    elif kind == 3:
        del data[start : min(end, start + 64)]
    elif kind == 4:
        data[start:start] = random.randbytes(random.choice((1, 4, 64)))
    elif kind == 5:
        data[start : start + 16] = random.choice((b"\0", b"\xff", b"\x7f")) * min(16, len(data) - start)
    else:
        data[start:start] = data[start : min(end, start + 4096)]
    return bytes(data)


def _mutate_lines(content: bytes, random: Random) -> bytes:
    lines = content.split(b"\n")
    place = random.randrange(len(lines))
    odd = (b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"a" * 100_000, b"a b c", "\u2028é".encode(), b"\r", b"x" * 5)
    kind = random.randrange(4)
    if kind == 0:
        lines[place] = random.choice(odd)
    elif kind == 1:
        lines.insert(place, random.choice(odd))
    elif kind == 2:
        other = random.randrange(len(lines))
        lines[place], lines[other] = lines[other], lines[place]
    else:
        del lines[place]
    return b"\n".join(lines)


def _mutate_json(content: bytes, random: Random) -> bytes:
    document = json.loads(content)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        places = list(_places(document))
        if not places:
            break
        document = _change(document, places, random)
    if random.random() < 0.03:
        return _nested(random, json.dumps(document))
    return json.dumps(document).encode()


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values; of long lists and objects only the first twenty entries."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for index, (key, value) in enumerate(items):
        if index < 20:
            yield (*path, key)
            yield from _places(value, (*path, key))


def _change(document: Any, places: list[tuple[Any, ...]], random: Random) -> Any:
    if random.random() < 0.01:
        return copy.deepcopy(random.choice(_ODD))
    depth = random.choice([len(place) for place in places])  # each level as often as it has values
    *way, key = random.choice([place for place in places if len(place) == depth])
    parent = document
    for step in way:
        parent = parent[step]
    kind = random.randrange(8)
    if kind <= 3:
        parent[key] = copy.deepcopy(random.choice(_ODD))
    elif kind == 4:
        del parent[key]
    elif kind == 5:
        value = parent[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        parent[key] = value * random.choice((-1, 0, 2, 1000, 10**12)) if is_number else [value]
    elif kind == 6 and isinstance(parent, dict):
        parent[random.choice(("x", "_class_name", "", "\ud800", "a" * 300, f"{key}_"))] = parent.pop(key)
    else:
        other = document
        for step in random.choice(places):
            other = other[step]
        parent[key] = json.loads(json.dumps(other))
    return document


def _nested(random: Random, text: str) -> bytes:
    depth = random.choice((70, _DEEP, 100_000))
    opened, closed = random.choice((("[", "]"), ('{"a":', "}")))
    return (opened * depth + text + closed * depth).encode()
