"""Prompt-to-Prompt: the attention of edited prompts, made of that of the first prompt, step by step.

Hertz et al. 2022, https://arxiv.org/abs/2208.01626. All edits have one form, P' = P_base M + P c, with M (tokens,
tokens) and c (tokens,) of each prompt and step: a word's window switches columns between M and c.
"""

from collections.abc import Iterable

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.attention.edit_options import (
    DEFAULT_WINDOW,
    EditOptions,
    Window,
)
from diffoundry.runtime.pipelines.attention.words import PromptWords, refinement_map, replacement_map

__all__ = ["PromptEdit"]

_SELF_LIMIT = 16**2
"""Pixels up to which self attention is replaced, as in the community pipeline."""


class PromptEdit:
    """The edits of one call, for every step. Nothing changes after construction."""

    def __init__(self, options: EditOptions, prompts: list[PromptWords], steps: int) -> None:
        """Align the prompts.

        Args:
            options: The edits.
            prompts: The first is the base, the others are edited.
            steps: Steps of the scheduler, which the windows are fractions of.

        Raises:
            InputError: A word occurs in no edited prompt, or the prompts cannot be aligned.
        """
        base, *edited = prompts
        length = base.length
        maps, keeps = zip(*(_align(options.edit_type, base, one) for one in edited), strict=True)
        strengths = np.stack([_strengths(options, one) for one in edited])
        _check_words(options.equalizer, "equalizer_words", edited)
        self._map = np.stack(maps) * strengths[:, None]
        self._keep = np.stack(keeps) * strengths
        self._gate = _gate(options, edited, (steps + 1, len(edited), length))
        self._self_steps = _bounds(options.n_self_replace, steps)

    def at(self, step: int) -> tuple[FloatArray, FloatArray]:
        """Return M (edits, tokens, tokens) and c (edits, tokens) of a step."""
        gate = self._gate[min(step, len(self._gate) - 1)]
        return self._map * gate[:, None], self._keep * gate + (1 - gate)

    def self_limit(self, step: int) -> int:
        """Return the pixels up to which self attention is replaced in a step."""
        start, end = self._self_steps
        return _SELF_LIMIT if start <= step < end else 0


def _align(kind: str, base: PromptWords, edited: PromptWords) -> tuple[FloatArray, FloatArray]:
    """Return M and c of one prompt inside its window."""
    nothing = np.zeros(base.length, np.float32)
    if kind == "refine":
        return refinement_map(base, edited)
    if kind == "replace":
        return replacement_map(base, edited), nothing
    return np.eye(base.length, dtype=np.float32), nothing


def _strengths(options: EditOptions, edited: PromptWords) -> FloatArray:
    strengths = np.ones(edited.length, np.float32)
    for word, strength in options.equalizer.items():
        strengths[edited.find(word)] = strength
    return strengths


def _gate(options: EditOptions, edited: list[PromptWords], shape: tuple[int, int, int]) -> FloatArray:
    """Return (steps, edits, tokens): 1 where attention is that of the base, 0 where it is the prompt's own."""
    gate = np.zeros(shape, np.float32)
    windows = dict(options.n_cross_replace)
    start, end = _bounds(windows.pop(DEFAULT_WINDOW), len(gate))
    gate[start:end] = 1
    _check_words(windows, "n_cross_replace", edited)
    for word, window in windows.items():
        start, end = _bounds(window, len(gate))
        for index, prompt in enumerate(edited):
            places = prompt.find(word)
            gate[:, index, places] = 0
            gate[start:end, index, places] = 1
    return gate


def _bounds(window: Window, steps: int) -> tuple[int, int]:
    return int(steps * window.start), int(steps * window.end)


def _check_words(words: Iterable[str], name: str, edited: list[PromptWords]) -> None:
    """Refuse a word that occurs in no edited prompt."""
    for word in words:
        if not any(prompt.find(word) for prompt in edited):
            prompts = " or ".join(repr(prompt.prompt) for prompt in edited)
            raise InputError(
                f"{name}: got {word!r}, which is no word of {prompts}, expected one as it is written there"
            )
