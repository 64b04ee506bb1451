"""Prompt weights such as `(word:1.3)`: their syntax, and their effect on hidden states."""

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError

__all__ = ["WeightedText", "parse_weights", "scale_states", "stretch_states"]

FloatArray = npt.NDArray[np.float32]

_MORE = 1.1
"""Weight of a pair of round brackets without a number; square brackets have its reciprocal."""

_PIECE = re.compile(r"\\(?P<literal>[()\[\]\\]?)|(?P<bracket>[(\[\])])|:(?P<weight>[+-]?[.\d]+)\)|[^\\()\[\]:]+|:")


class WeightedText(NamedTuple):
    """A piece of a prompt with its weight; 1 is neutral."""

    text: str
    weight: float


def parse_weights(text: str) -> list[WeightedText]:
    r"""Read a prompt with weights.

    `(word)` counts 1.1 times, `((word))` 1.21 times, `[word]` 1 / 1.1 times, `(word:1.3)` 1.3 times; brackets nest, and
    unclosed ones reach to the end. `\(`, `\)`, `\[`, `\]` and `\\` are the characters themselves. The grammar
    is that of AUTOMATIC1111's `parse_prompt_attention`, which diffusers' community pipelines `lpw_stable_diffusion` and
    `lpw_stable_diffusion_xl` use (without the latter's BREAK).

    Returns:
        At least one part; neighbours differ in weight.

    Raises:
        InputError: A weight is no number, such as 1.2.3.
    """
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def weigh(bracket: str, factor: float) -> None:
        for index in range(opened[bracket].pop(), len(texts)):
            weights[index] *= factor

    for piece in _PIECE.finditer(text):
        bracket, number = piece["bracket"], piece["weight"]
        if bracket in ("(", "["):
            opened[bracket].append(len(texts))
        elif number is not None and opened["("]:
            weigh("(", _number(number, text))
        elif bracket == ")" and opened["("]:
            weigh("(", _MORE)
        elif bracket == "]" and opened["["]:
            weigh("[", 1 / _MORE)
        else:
            texts.append(piece[0] if piece["literal"] is None else piece["literal"])
            weights.append(1.0)
    for bracket, factor in (("(", _MORE), ("[", 1 / _MORE)):
        while opened[bracket]:
            weigh(bracket, factor)
    return _merge(texts, weights)


def _merge(texts: list[str], weights: list[float]) -> list[WeightedText]:
    """Join neighbours of the same weight; an empty prompt is one part."""
    parts: list[WeightedText] = []
    for text, weight in zip(texts, weights, strict=True):
        if parts and parts[-1].weight == weight:
            parts[-1] = WeightedText(parts[-1].text + text, weight)
        else:
            parts.append(WeightedText(text, weight))
    return parts or [WeightedText("", 1.0)]


def _number(digits: str, text: str) -> float:
    try:
        return float(digits)
    except ValueError as error:
        raise InputError(
            f"prompt: got the weight {digits!r} in {text!r}, expected a number as in (word:1.3); "
            rf"write \( and \) for brackets that are meant"
        ) from error


def scale_states(states: FloatArray, weights: FloatArray) -> FloatArray:
    """Multiply hidden states by their weights, then each prompt by the number that restores its mean.

    diffusers: community pipeline `lpw_stable_diffusion`, `get_weighted_text_embeddings`.

    Args:
        states: (B, tokens, D).
        weights: (B, tokens).

    Returns:
        (B, tokens, D); rows of which all weights are 1 are the same bit for bit.

    Raises:
        InputError: A weight is so large, or the mean so small, that no such number is finite.
    """
    with np.errstate(all="ignore"):
        weighted = states * weights[..., None]
        ratio = states.mean(axis=(1, 2)) / weighted.mean(axis=(1, 2))
        ratio[(weights == 1).all(axis=1)] = 1
        return _finite(weighted * ratio[:, None, None])


def stretch_states(states: FloatArray, weights: FloatArray, chunk: int) -> FloatArray:
    """Move hidden states away from that of the end token of their chunk, or towards it: e + (h - e) w.

    diffusers: community pipeline `lpw_stable_diffusion_xl`, `get_weighted_text_embeddings_sdxl`.

    Args:
        states: (B, tokens, D).
        weights: (B, tokens).
        chunk: Tokens in a chunk, whose last state is e.

    Returns:
        (B, tokens, D); states of weight 1 are the same bit for bit.

    Raises:
        InputError: A weight is too large for float32.
    """
    rows, tokens, width = states.shape
    end = np.repeat(states.reshape(rows, tokens // chunk, chunk, width)[:, :, -1], chunk, axis=1)
    factor = weights[..., None]
    with np.errstate(all="ignore"):
        return _finite(np.where(factor == 1, states, end + (states - end) * factor))


def _finite(states: FloatArray) -> FloatArray:
    if not np.isfinite(states).all():
        raise InputError(
            "prompt: got weights that leave no finite embedding, expected weights around 1, such as 0.5 to 2"
        )
    return states
