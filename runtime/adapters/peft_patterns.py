"""PEFT's patterns: regular expressions of layers, read from a file that is not trusted."""

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError

__all__ = ["match_patterns"]

_LITERAL = re.compile(r"\^?[\w.]+")
"""Patterns that are names; files of diffusers have one for each layer."""

_MOST_CHARACTERS = 1000
_MOST_WILDCARDS = 4
_MOST_OPTIONALS = 8
_SECONDS = 5.0


def match_patterns(
    patterns: Mapping[str, float], layers: Mapping[str, Sequence[str]], path: Path
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return layer to the value of the first pattern that fits it, and the patterns that fit no layer.

    PEFT: `get_pattern_key`. A pattern fits a name, or its end after a dot.

    Args:
        patterns: Regular expression to value.
        layers: Layer to its names; a pattern need fit only one of them.
        path: The file, for messages.

    Raises:
        InputError: A pattern is no regular expression, or one that could take very long.
    """
    pairs = [(layer, name) for layer, several in layers.items() for name in several]
    names = _Names([name for _, name in pairs])
    values: dict[str, float] = {}
    unfitting = []
    deadline = time.monotonic() + _SECONDS
    for pattern, value in patterns.items():
        if _LITERAL.fullmatch(pattern):
            fitting = names.ending_with(pattern)
        else:
            expression = _compile(pattern, path)
            fitting = []
            for index, (_, name) in enumerate(pairs):
                if time.monotonic() > deadline:
                    raise InputError(f"LoRA {path}: its metadata has patterns that take too long; do not trust it")
                if expression.match(name):
                    fitting.append(index)
        for index in fitting:
            values.setdefault(pairs[index][0], value)
        if not fitting:
            unfitting.append(pattern)
    return values, tuple(unfitting)


class _Names:
    """Names of layers, found by patterns without other special characters than dots, which fit any character."""

    def __init__(self, names: Sequence[str]) -> None:
        """Sort the ends of the names, from a dot on, by their length."""
        ends: dict[int, list[tuple[int, str, bool]]] = defaultdict(list)
        for index, name in enumerate(names):
            for place in (0, *(found.end() for found in re.finditer(r"\.", name))):
                ends[len(name) - place].append((index, name[place:], place == 0))
        self._ends = {
            length: (np.array([_codes(end) for _, end, _ in found]), [(index, whole) for index, _, whole in found])
            for length, found in ends.items()
            if length
        }

    def ending_with(self, pattern: str) -> list[int]:
        """Return the indices of the names that a pattern fits; after "^" only whole names."""
        bare = pattern.removeprefix("^")
        if len(bare) not in self._ends:
            return []
        codes, found = self._ends[len(bare)]
        wanted = _codes(bare)
        rows = np.flatnonzero(((codes == wanted) | (wanted == ord("."))).all(axis=1))
        return [found[row][0] for row in rows if found[row][1] or bare == pattern]


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _compile(pattern: str, path: Path) -> re.Pattern[str]:
    """Compile a pattern whose matching is bounded.

    Python's matcher tries every way to share a name among wildcards, so their number is limited, and repeated groups
    and back references are refused.
    """
    plain = re.sub(r"\\d|\[0-9\]", "0", pattern)
    reference = re.search(r"\\[1-9]|\(\?(?!:)", plain)
    plain = re.sub(r"\[[^\]]*\]", "S", re.sub(r"\\.", "E", plain))
    wildcards = re.findall(r"[^0][*+]|[^0]\{|0[*+{]", plain)
    broad = [found for found in wildcards if found[0] != "0"]
    if (
        reference
        or len(pattern) > _MOST_CHARACTERS
        or any(found[0] == ")" for found in broad)
        or len(broad) > _MOST_WILDCARDS
        or len(wildcards) > 2 * _MOST_WILDCARDS
        or plain.count("?") > _MOST_OPTIONALS
    ):
        raise InputError(
            f"LoRA {path}: metadata pattern {pattern[:80]!r}: got an expression that can take very long, expected a "
            f"layer's name or an expression with at most {_MOST_WILDCARDS} wildcards and no repeated groups; write it "
            f"out"
        )
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(
            f"LoRA {path}: metadata pattern {pattern[:80]!r}: is no regular expression ({error}); PEFT cannot read it "
            f"either"
        ) from error
