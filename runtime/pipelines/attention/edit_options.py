"""The edits of one call, under the names of diffusers' community pipeline `pipeline_prompt2prompt`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import shorten
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["DEFAULT_WINDOW", "EDIT_TYPES", "EditOptions", "Window", "read_edit_options"]

ARGUMENT = "cross_attention_kwargs"

EDIT_TYPES = ("replace", "refine", "reweight")

DEFAULT_WINDOW = "default_"
"""Name of the window of all words that have none of their own."""


class Window(NamedTuple):
    """The part of the steps in which attention is replaced, as fractions of them."""

    start: float
    end: float


_USUAL = Window(0.0, 0.4)


@dataclass(frozen=True, kw_only=True, slots=True)
class EditOptions:
    """The entries of `cross_attention_kwargs`.

    Attributes:
        edit_type: "replace" swaps words, "refine" adds words, "reweight" changes the strength of words.
        n_cross_replace: Windows of cross attention by words of the edited prompts; `DEFAULT_WINDOW` is always there.
        n_self_replace: Window of self attention.
        local_blend_words: For each prompt the words whose region changes; empty lets the whole image change.
        local_blend_threshold: Attention from which a pixel is in the region, as a share of the strongest.
        equalizer: Words of the edited prompts to their strength; 1 changes nothing.
    """

    edit_type: str
    n_cross_replace: Mapping[str, Window] = field(default_factory=lambda: {DEFAULT_WINDOW: _USUAL})
    n_self_replace: Window = _USUAL
    local_blend_words: tuple[tuple[str, ...], ...] = ()
    local_blend_threshold: float = 0.3
    equalizer: Mapping[str, float] = field(default_factory=dict)


_PAIR = ("equalizer_words", "equalizer_strengths")

_KEYS = (*(one.name for one in fields(EditOptions) if one.name != "equalizer"), *_PAIR)


def read_edit_options(given: object, prompts: int) -> EditOptions:
    """Read `cross_attention_kwargs`.

    Args:
        given: The argument.
        prompts: Number of prompts.

    Raises:
        InputError: It is no dictionary, lacks an entry, has one that does not exist, or a value of another form.
    """
    if not isinstance(given, Mapping):
        raise InputError(f"{ARGUMENT}: got {shorten(given)}, expected a dictionary such as {{'edit_type': 'replace'}}")
    for key in given:
        if key == "scale":
            raise InputError(f"{ARGUMENT}: got 'scale'; set the scale of a LoRA with pipe.loras.set_scale(0.5)")
        if key not in _KEYS:
            raise InputError(
                f"{ARGUMENT}: got {shorten(key)}, expected one of {', '.join(_KEYS)}.{did_you_mean(str(key), _KEYS)}"
            )
    kind = given.get("edit_type")
    if kind not in EDIT_TYPES:
        got = "none" if kind is None else shorten(kind)
        raise InputError(f"edit_type: got {got}, expected one of {', '.join(EDIT_TYPES)}")
    if prompts < 2:
        raise InputError(
            f"prompt: got {prompts}, expected at least two with {ARGUMENT}: the first is kept, the others are its edits"
        )
    readers: dict[str, Callable[[Any], Any]] = {
        "n_cross_replace": _windows,
        "n_self_replace": lambda value: _window("n_self_replace", value),
        "local_blend_words": lambda value: _blend_words(value, prompts),
        "local_blend_threshold": _threshold,
    }
    options = {name: read(given[name]) for name, read in readers.items() if given.get(name) is not None}
    return EditOptions(edit_type=kind, equalizer=_equalizer(given, required=kind == "reweight"), **options)


def _windows(value: object) -> dict[str, Window]:
    """Read one window for all words, or a dictionary with some for words."""
    if not isinstance(value, Mapping):
        return {DEFAULT_WINDOW: _window("n_cross_replace", value)}
    if not all(isinstance(word, str) and word.strip() for word in value):
        raise InputError(f"n_cross_replace: got the words {shorten(list(value))}, expected texts")
    names = {word: "n_cross_replace" if word == DEFAULT_WINDOW else f"n_cross_replace of {word!r}" for word in value}
    windows = {word: _window(names[word], one) for word, one in value.items()}
    return {DEFAULT_WINDOW: Window(0.0, 1.0), **windows}


def _window(name: str, value: Any) -> Window:
    """Read a fraction, which begins at 0, or a pair of them."""
    pair = [0.0, value] if not isinstance(value, list | tuple) else list(value)
    if len(pair) != 2:
        raise InputError(f"{name}: got {shorten(value)}, expected a fraction, or a start and an end")
    for one in pair:
        check_number(f"{name}", one, 0, 1)
    if pair[0] > pair[1]:
        raise InputError(f"{name}: got {shorten(value)}, expected the start before the end")
    return Window(float(pair[0]), float(pair[1]))


def _threshold(value: float) -> float:
    check_number("local_blend_threshold", value, 0, 1)
    return float(value)


def _blend_words(value: object, prompts: int) -> tuple[tuple[str, ...], ...]:
    entries = list(value) if isinstance(value, list | tuple) else []
    words = [(one,) if isinstance(one, str) else tuple(one) if isinstance(one, list | tuple) else () for one in entries]
    if len(words) != prompts or not all(one and all(isinstance(word, str) for word in one) for one in words):
        raise InputError(
            f"local_blend_words: got {shorten(value)}, expected {prompts} entries, one for each prompt: a "
            f"word, or a list of words"
        )
    return tuple(words)


def _equalizer(given: Mapping[str, Any], *, required: bool) -> dict[str, float]:
    words, strengths = (_listed(given.get(name)) for name in _PAIR)
    if len(words) != len(strengths) or not all(isinstance(word, str) for word in words):
        raise InputError(
            f"{ARGUMENT}: got {len(words)} equalizer_words and {len(strengths)} equalizer_strengths, expected as many "
            f"words as numbers"
        )
    if required and not words:
        raise InputError(
            f"{ARGUMENT}: got no equalizer_words with the edit type 'reweight', expected words and, in "
            f"equalizer_strengths, a number for each"
        )
    for word, strength in zip(words, strengths, strict=True):
        check_number(f"equalizer_strengths of {word!r}", strength, -1000, 1000)
    return dict(zip(words, map(float, strengths), strict=True))


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return list(value) if isinstance(value, list | tuple) else [value]
