"""The arguments `guidance_interval` and `cache` of a call."""

import re
from typing import Any, NamedTuple

from diffoundry.runtime.checks.arguments import is_number
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import shorten

__all__ = ["SPLIT_CACHES", "CacheChoice", "check_approximations", "parse_cache"]

SPLIT_CACHES = ("deep", "first-block")
"""Kinds of caches that need a bundle of `export --split`."""

_MOST = {"order": 4, "guidance-order": 4, "interval": 1000, "final": 1000}
_LEAST = {"interval": 2}

_OWN = {
    "taylor": "order",
    "sea": "threshold",
    "guidance": "interval",
    "deep": "interval",
    "first-block": "threshold",
}
"""Kind of cache to the number after its name."""

_MORE = {
    "taylor": ("final", "guidance-order", "interval"),
    "sea": ("final", "guidance-order"),
    "guidance": ("final", "guidance-order"),
    "deep": ("final", "order"),
    "first-block": ("final",),
}
"""Kind of cache to its further numbers."""

_FORMS = (
    "taylor:ORDER, sea:THRESHOLD, guidance:INTERVAL, deep:INTERVAL or first-block:THRESHOLD, such as "
    "taylor:1:interval=3, sea:0.2, guidance:2, deep:3 or first-block:0.1; see 'Generate faster' in the docs"
)


class CacheChoice(NamedTuple):
    """A cache as the caller names it.

    Its text is `taylor:ORDER`, `sea:THRESHOLD`, `guidance:INTERVAL`, `deep:INTERVAL` or `first-block:THRESHOLD`,
    followed by any of `:interval=N` (of taylor), `:order=N` (of deep), `:final=N`, and of the first three
    `:guidance-order=N`. With taylor and sea some steps do not call the denoiser. With guidance every step calls it for
    the prompts, and some do not for the negative prompts. With deep and first-block every step runs the outer part of
    a denoiser that was exported with --split, and some do not run its inner part.

    Attributes:
        kind: "taylor", "sea", "guidance", "deep" or "first-block".
        order: Degree of the polynomial that forecasts the output of the denoiser; of deep, that of its inner part.
        interval: Every so many steps there is a full call; of taylor, guidance and deep.
        threshold: Relative change from which there is a full call; of sea that of the latents, of first-block that of
            what the first block adds.
        final: Steps at the end with a full call.
        guidance_order: Degree for the difference that guidance adds; None is that of `order`.
    """

    kind: str
    order: int = 1
    interval: int = 2
    threshold: float = 0.0
    final: int = 3
    guidance_order: int | None = None


def parse_cache(text: Any) -> CacheChoice:
    """Read the argument `cache`.

    Raises:
        InputError: It has none of the forms, or a number out of range.
    """
    form = rf"({'|'.join(_OWN)}):([\d.]+)((?::[a-z-]+=\d+)*)"
    found = re.fullmatch(form, text) if isinstance(text, str) else None
    if not found:
        raise InputError(f"cache: got {shorten(text)}, expected {_FORMS}")
    kind, value, rest = found.groups()
    own, allowed = _OWN[kind], _MORE[kind]
    numbers: dict[str, float] = {**({"order": 0} if kind in SPLIT_CACHES else {}), own: _number(text, own, value)}
    named = {own}
    for name, number in (part.split("=") for part in rest.split(":")[1:]):
        if name not in allowed or name in named:
            why = "twice" if name in named else f"which {kind} does not take"
            raise InputError(f"cache: got {name} in {text!r}, {why}; expected {_FORMS}")
        numbers[name] = _number(text, name, number)
        named.add(name)
    return CacheChoice(kind, **{name.replace("-", "_"): value for name, value in numbers.items()})  # type: ignore[arg-type]  # by name


def _number(text: str, name: str, value: str) -> float:
    if name == "threshold":
        if value.count(".") > 1 or not value.strip("."):
            raise InputError(f"cache: got the threshold {value} in {text!r}, expected a number such as 0.2")
        return float(value)
    least, most = _LEAST.get(name, 0), _MOST[name]
    if not value.isdigit() or not least <= int(value) <= most:
        raise InputError(
            f"cache: got {shorten(value)} for the {name} in {text!r}, expected a whole number from {least} to {most}"
        )
    return int(value)


def check_approximations(interval: Any, cache: Any) -> None:
    """Refuse an optional `cache` that `parse_cache` does not read, and a `guidance_interval` that is no interval.

    Raises:
        InputError: As said.
    """
    if cache is not None:
        parse_cache(cache)
    if interval is None:
        return
    pair = isinstance(interval, tuple | list) and len(interval) == 2 and all(map(is_number, interval))
    if not pair or not 0 <= interval[0] < interval[1] <= 1:
        raise InputError(
            f"guidance_interval: got {shorten(interval)}, expected two fractions of the steps from 0 to 1, the lower "
            f"one first, such as (0.2, 0.8)"
        )
