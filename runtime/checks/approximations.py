"""The arguments `guidance_interval` and `cache` of a call."""

import re
from typing import Any, NamedTuple

from diffoundry.runtime.checks.arguments import is_number
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import shorten

__all__ = ["CacheChoice", "check_approximations", "parse_cache"]

_MOST = {"order": 4, "guidance-order": 4, "interval": 1000, "final": 1000}
_LEAST = {"interval": 2}

_FORMS = (
    "taylor:ORDER, sea:THRESHOLD or guidance:INTERVAL, such as taylor:1:interval=3, sea:0.2 or guidance:2; see "
    "'Generate faster' in the docs"
)


class CacheChoice(NamedTuple):
    """A cache as the caller names it.

    Its text is `taylor:ORDER`, `sea:THRESHOLD` or `guidance:INTERVAL`, followed by any of `:interval=N` (of taylor),
    `:final=N` and `:guidance-order=N`. With taylor and sea some steps do not call the denoiser. With guidance every
    step calls it for the prompts, and some do not for the negative prompts.

    Attributes:
        kind: "taylor", "sea" or "guidance".
        order: Degree of the polynomial that forecasts the denoiser's output.
        interval: Every so many steps there is a full call; of taylor and guidance.
        threshold: Relative change of the latents from which it is called; of sea.
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
    found = re.fullmatch(r"(taylor|sea|guidance):([\d.]+)((?::[a-z-]+=\d+)*)", text) if isinstance(text, str) else None
    if not found:
        raise InputError(f"cache: got {shorten(text)}, expected {_FORMS}")
    kind, value, rest = found.groups()
    own = {"taylor": "order", "sea": "threshold", "guidance": "interval"}[kind]
    allowed = ("final", "guidance-order", *(["interval"] if kind == "taylor" else []))
    numbers: dict[str, float] = {own: _number(text, own, value)}
    for name, number in (part.split("=") for part in rest.split(":")[1:]):
        if name not in allowed or name in numbers:
            why = "twice" if name in numbers else f"which {kind} does not take"
            raise InputError(f"cache: got {name} in {text!r}, {why}; expected {_FORMS}")
        numbers[name] = _number(text, name, number)
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
