"""Suggests the word that the user most likely meant."""

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean", "nearest_words"]


_CUTOFF = 0.68
"""Least similarity, 0 to 1: "negative" resembles "negative_prompt" (0.70), "mask" does not resemble "sigmas" (0.60)."""


def did_you_mean(word: str, words: Iterable[str], cutoff: float = _CUTOFF) -> str:
    """A question that names the nearest of `words`, with a space before it, or nothing when none is near.

    Args:
        word: The word that the user typed.
        words: Known words.
        cutoff: Least similarity, 0 to 1.
    """
    near = nearest_words(word, words, 1, cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


def nearest_words(word: str, words: Iterable[str], most: int = 3, cutoff: float = _CUTOFF) -> list[str]:
    """Return the words that resemble `word`, the nearest first, then those with all its parts: "num_steps" is short.

    The case of letters and leading dashes do not count.
    """
    typed, plain = _plain(word), {_plain(known): known for known in words}
    near = difflib.get_close_matches(typed, plain, n=most, cutoff=cutoff)
    parts = {part for part in typed.split("_") if len(part) > 2}
    longer = sorted((one for one in plain if len(parts) > 1 and parts <= set(one.split("_"))), key=len)
    return [plain[one] for one in dict.fromkeys([*near, *longer])][:most]


def _plain(word: str) -> str:
    return word.lower().lstrip("-")
