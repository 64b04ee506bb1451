"""Checks of a call's arguments: numbers, texts, arrays. Each refuses with an `InputError` that names the argument."""

import math
import reprlib
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import shorten
from diffoundry.runtime.images.postprocess import OUTPUT_TYPES

__all__ = [
    "as_list",
    "check_counterpart",
    "check_embeddings",
    "check_fraction",
    "check_kind",
    "check_negative",
    "check_number",
    "check_numbers",
    "check_pixels",
    "check_prompts",
    "check_result",
    "check_texts",
    "check_type",
    "is_number",
    "is_whole",
]

_LARGEST = 10**6
"""Of a number without another bound, so that float32 holds what it is multiplied with."""


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number of Python or NumPy; True and False are none."""
    return _is_a(Integral, value)


def is_number(value: object) -> bool:
    """Return whether a value is a finite number of Python or NumPy; True and False are none."""
    return _is_a(Real, value) and -math.inf < value < math.inf  # type: ignore[operator]  # checked


def check_kind(name: str, value: object, annotation: object) -> None:
    """Refuse True and False where a field takes neither, and a torch tensor where it takes an array.

    Args:
        name: The argument.
        value: Its value.
        annotation: Type of the field.
    """
    text = str(annotation)
    if isinstance(value, bool | np.bool_) and "bool" not in text:
        words = {
            "Callable": "a function",
            "Generator": "a generator",
            "ndarray": "an array",
            "int": "a whole number",
            "float": "a number",
            "str": "a text",
        }
        kind = next((kind for word, kind in words.items() if word in text), "another value")
        raise InputError(f"{name}: got {value!r}, expected {kind}")
    if not ("ndarray" in text and "Image" not in text) or value is None:
        return
    kinds, numbers = ("iu", "whole numbers") if "int64" in text else ("f", "floats")
    if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds:
        raise InputError(
            f"{name}: got {_describe(value)}, expected a NumPy array of {numbers}{_numpy_hint(name, value)}"
        )


def check_number(name: str, value: Any, low: float, high: float = math.inf, *, whole: bool = False) -> None:
    """Refuse a value that is no number from `low` to `high`, at most a million, whose products float32 holds."""
    kind, most = (Integral, 2**63 - 1) if whole else (Real, _LARGEST)
    value = value.item() if isinstance(value, np.generic) else value
    if not _is_a(kind, value) or not low <= value <= min(high, most):
        beyond = high == math.inf and not whole and is_number(value) and value > _LARGEST
        upper = f" and at most {_LARGEST:.0f}" if beyond else "" if high == math.inf else f" and at most {high:g}"
        word = "whole number" if whole else "number"
        got = "None" if value is None else shorten(value)
        raise InputError(f"{name}: got {got}, expected a {word} of at least {low:g}{upper}")


def check_type(name: str, value: object, kind: Any, expected: str) -> None:
    """Refuse a value that is not of a type, or a union of types; `expected` is the type in words."""
    if not isinstance(value, kind):
        raise InputError(f"{name}: got {reprlib.repr(value)}, expected {expected}")


def check_numbers(name: str, values: object) -> None:
    """Refuse an optional list that holds anything but finite numbers."""
    if values is None:
        return
    entries: list[Any] = (
        list(values) if isinstance(values, Sequence | np.ndarray) and not isinstance(values, str) else [None]
    )
    if not all(map(is_number, entries)):
        raise InputError(f"{name}: got {shorten(values)}, expected a list of numbers")


def check_pixels(name: str, value: object) -> None:
    """Refuse an optional side of an image that is no whole number, or 0."""
    if value is not None and (not is_whole(value) or value == 0):
        raise InputError(f"{name}: got {shorten(value)}, expected a whole number of pixels")


def check_fraction(name: str, value: float | None) -> None:
    """Refuse an optional fraction of the schedule that is not above 0 and below 1."""
    if value is not None and not (_is_a(Real, value) and 0 < value < 1):
        raise InputError(f"{name}: got {value!r}, expected a number above 0 and below 1")


def check_embeddings(name: str, values: object, count: int, axes: int) -> None:
    """Refuse an optional argument that is no array of embeddings with a row for each prompt."""
    if values is None:
        return
    shape = values.shape if isinstance(values, np.ndarray) and values.dtype.kind == "f" else None
    if shape is None or len(shape) != axes or shape[0] != count or not count:
        found = type(values).__name__ if shape is None else f"shape {shape}"
        tokens = "tokens, width" if axes == 3 else "width"
        raise InputError(
            f"{name}: got {found}, expected floats ({count or 'prompts'}, {tokens}){_numpy_hint(name, values)}"
        )


def check_counterpart(name: str, prompts: NDArray[Any], negative: NDArray[Any]) -> None:
    """Refuse an input of the denoiser whose arrays for prompts and negative prompts have different shapes."""
    if prompts.shape != negative.shape:
        raise InputError(
            f"{name}: got shapes {prompts.shape} and {negative.shape} for the prompt and its negative, expected the "
            f"same; pass embeddings of both"
        )


def check_negative(prompts: NDArray[Any] | None, negative: NDArray[Any] | None) -> None:
    """Refuse optional embeddings of negative prompts that have another shape than those of the prompts."""
    if prompts is not None and negative is not None and prompts.shape != negative.shape:
        raise InputError(
            f"negative_prompt_embeds: got shape {negative.shape}, expected that of prompt_embeds, {prompts.shape}"
        )


def check_result(output_type: object, seed: object, generator: object) -> None:
    """Refuse an unknown type of the result, and two sources of its noise."""
    if not isinstance(output_type, str) or output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type: got {output_type!r}, expected one of {', '.join(OUTPUT_TYPES)}")
    if seed is not None and generator is not None:
        raise InputError("seed and generator: got both, expected at most one of them")


def check_texts(name: str, texts: object, count: int) -> None:
    """Refuse an optional argument that is neither a text nor one for each prompt."""
    if texts is None or isinstance(texts, str):
        return
    if not isinstance(texts, Sequence) or isinstance(texts, bytes):
        raise InputError(f"{name}: got {type(texts).__name__}, expected a string or {count} of them")
    if len(texts) != count or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{name}: got {len(texts)} entries, expected a string or {count} of them")


def check_prompts(name: str, prompts: object) -> None:
    """Refuse an optional argument that is neither a text nor a list of at least one."""
    if prompts is None or isinstance(prompts, str):
        return
    texts = isinstance(prompts, Sequence) and not isinstance(prompts, bytes)
    if not (texts and prompts and all(isinstance(text, str) for text in prompts)):  # type: ignore[attr-defined]
        raise InputError(f"{name}: got {shorten(prompts)}, expected a string or a list of at least one")


def as_list(texts: str | Sequence[str], count: int) -> list[str]:
    """Return one text for all prompts, or one for each, as a list."""
    return [texts] * count if isinstance(texts, str) else list(texts)


def _is_a(kind: type, value: Any) -> bool:
    """Return whether a value is a number of a kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _describe(value: object) -> str:
    """Return the type of a value; of an array its dtype and shape."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    module = type(value).__module__
    return type(value).__name__ if module == "builtins" else f"{module}.{type(value).__name__}"


def _numpy_hint(name: str, value: object) -> str:
    return f"; pass {name}.numpy()" if type(value).__module__.partition(".")[0] == "torch" else ""
