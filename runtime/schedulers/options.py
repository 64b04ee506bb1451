"""The options of a scheduler: what every `Options` dataclass shares, and the check of names, types and values."""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from diffoundry.runtime.errors import ConfigError

__all__ = ["BetaOptions", "SchedulerOptions", "SigmaOptions", "SigmaSchedule", "TrainingOptions", "build_options"]

O = TypeVar("O", bound="SchedulerOptions")  # noqa: E741 - the options' own class, as T is for a type


@dataclass(frozen=True, kw_only=True)
class SchedulerOptions:
    """Base of the options of every scheduler: one field per argument of the diffusers class, same default.

    The annotation of a field is its check: a `Literal` lists the values that are honoured.
    Not slotted, so that groups of options can be mixed by inheritance.
    """

    @classmethod
    def translate(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Replace values that only a compatible class knows, as the diffusers constructor does; default: none."""
        return given

    def check(self, owner: str) -> None:
        """Refuse options that contradict each other.

        Args:
            owner: the scheduler's class name, for the message.

        Raises:
            ConfigError: naming the options.
        """


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(SchedulerOptions):
    """How many noise levels the model was trained on."""

    num_train_timesteps: int = 1000

    def check(self, owner: str) -> None:
        """Refuse a training schedule without steps."""
        super().check(owner)
        if self.num_train_timesteps < 1:
            raise ConfigError(
                f"{owner}: option 'num_train_timesteps' is {self.num_train_timesteps}, expected at least 1."
            )


@dataclass(frozen=True, kw_only=True)
class BetaOptions(TrainingOptions):
    """How the variance grows over the training steps (see `betas.py`)."""

    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: Sequence[float] | None = None

    BETA_SCHEDULES: ClassVar[tuple[str, ...]] = ("linear", "scaled_linear", "squaredcos_cap_v2")
    """The values of `beta_schedule` that are honoured; a class variable, because classes know more or fewer."""

    def check(self, owner: str) -> None:
        """Refuse an unknown schedule, unless the betas are given, and fewer betas than steps."""
        super().check(owner)
        if self.trained_betas is None and self.beta_schedule not in self.BETA_SCHEDULES:
            expected = " or ".join(map(repr, self.BETA_SCHEDULES))
            raise ConfigError(f"{owner}: option 'beta_schedule' is {self.beta_schedule!r}, expected {expected}.")
        if self.trained_betas is not None and len(self.trained_betas) < self.num_train_timesteps:
            raise ConfigError(
                f"{owner}: option 'trained_betas' has {len(self.trained_betas)} values, expected one for each of the "
                f"num_train_timesteps = {self.num_train_timesteps}."
            )


class SigmaSchedule(StrEnum):
    """Which rule places the noise levels of a run; diffusers spells it as one boolean each."""

    TRAINED = "trained"
    KARRAS = "karras"
    EXPONENTIAL = "exponential"
    BETA = "beta"


@dataclass(frozen=True, kw_only=True)
class SigmaOptions(SchedulerOptions):
    """The booleans `use_*_sigmas`, of which at most one may be true."""

    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False

    @property
    def sigma_schedule(self) -> SigmaSchedule:
        """The three booleans as one choice."""
        if self.use_karras_sigmas:
            return SigmaSchedule.KARRAS
        if self.use_exponential_sigmas:
            return SigmaSchedule.EXPONENTIAL
        if self.use_beta_sigmas:
            return SigmaSchedule.BETA
        return SigmaSchedule.TRAINED

    def check(self, owner: str) -> None:
        """Refuse two rules at once."""
        super().check(owner)
        names = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
        chosen = [name for name in names if getattr(self, name)]
        if len(chosen) > 1:
            raise ConfigError(
                f"{owner}: options {' and '.join(chosen)} are both true, expected at most one of {', '.join(names)}."
            )


def build_options(cls: type[O], owner: str, given: Mapping[str, Any]) -> O:
    """Make the options of a scheduler from keyword arguments, checked.

    Args:
        cls: the scheduler's `Options`.
        owner: the scheduler's class name, for messages.
        given: option name to value; NumPy arrays and scalars become lists and numbers.

    Raises:
        ConfigError: an unknown option, a value of the wrong type or outside the honoured ones, a missing option, a
            contradiction.
    """
    known = {field.name for field in fields(cls)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ConfigError(f"{owner}: option '{unknown[0]}' is unknown, expected some of {', '.join(sorted(known))}.")
    plain = {
        name: value.tolist() if isinstance(value, np.generic | np.ndarray) else value for name, value in given.items()
    }
    translated = cls.translate(plain)
    hints = get_type_hints(cls)
    for name, value in sorted(translated.items()):
        if not _matches(value, hints[name]):
            raise ConfigError(f"{owner}: option '{name}' is {value!r}, expected {_describe(hints[name])}.")
    for field in fields(cls):
        if field.name not in translated and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(
                f"{owner}: option '{field.name}' is missing, expected {_describe(hints[field.name])}; it has no "
                "default."
            )
    options = cls(**translated)
    options.check(owner)
    return options


def _matches(value: Any, hint: Any) -> bool:
    """Whether a value that JSON can hold fits an annotation; an int is a float, a bool is no number."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_matches(value, part) for part in get_args(hint))
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(hint))
    if origin is Sequence:
        (item,) = get_args(hint)
        return isinstance(value, list | tuple) and all(_matches(part, item) for part in value)
    if hint is types.NoneType:
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    """An annotation in words: "'linear' or 'scaled_linear'", "a number or null"."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType, Literal):
        parts = [_describe(part) if origin is not Literal else repr(part) for part in get_args(hint)]
        return " or ".join(parts) if len(parts) < 3 else ", ".join(parts[:-1]) + " or " + parts[-1]
    if origin is Sequence:
        return f"a list of {_describe(get_args(hint)[0])}"
    words = {types.NoneType: "null", float: "a number", int: "an integer", bool: "true or false", str: "a string"}
    return words.get(hint) or f"a {hint.__name__}"
