"""The groups of options that many schedulers have."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from diffoundry.runtime.errors import ConfigError

__all__ = ["BetaOptions", "SchedulerOptions", "SigmaOptions", "SigmaSchedule", "TrainingOptions"]


@dataclass(frozen=True, kw_only=True)
class SchedulerOptions:
    """Base of the options of every scheduler: one field per argument of the diffusers class, same default.

    The annotation of a field is its check (`check_options.py`): a `Literal` lists the values that are honoured.
    """

    @classmethod
    def translate(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Replace values that only a compatible class knows, as the diffusers constructor does; default: none."""
        return given

    def check(self, owner: str) -> None:
        """Refuse options that contradict each other; `owner` is the scheduler's class name, for the message.

        Raises:
            ConfigError: naming the options.
        """


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(SchedulerOptions):
    """The number of noise levels that the model was trained on."""

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
    """The growth of the variance over the training steps (see `betas.py`)."""

    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: Sequence[float] | None = None

    BETA_SCHEDULES: ClassVar[tuple[str, ...]] = ("linear", "scaled_linear", "squaredcos_cap_v2")
    """The values of `beta_schedule` that are honoured; a class variable, because classes know more or fewer."""

    def check(self, owner: str) -> None:
        """Refuse an unknown schedule, unless the betas are listed, and fewer betas than steps."""
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
    """The rule that places the noise levels of a run; diffusers has one boolean for each."""

    TRAINED = "trained"
    KARRAS = "karras"
    EXPONENTIAL = "exponential"
    BETA = "beta"


_RULES = {f"use_{rule}_sigmas": rule for rule in SigmaSchedule if rule is not SigmaSchedule.TRAINED}


@dataclass(frozen=True, kw_only=True)
class SigmaOptions(SchedulerOptions):
    """The booleans `use_*_sigmas`, of which at most one may be true."""

    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False

    @property
    def sigma_schedule(self) -> SigmaSchedule:
        """The three booleans as one choice."""
        chosen = [name for name in _RULES if getattr(self, name)]
        return _RULES[chosen[0]] if chosen else SigmaSchedule.TRAINED

    def check(self, owner: str) -> None:
        """Refuse two rules at once."""
        super().check(owner)
        chosen = [name for name in _RULES if getattr(self, name)]
        if len(chosen) > 1:
            raise ConfigError(
                f"{owner}: options {' and '.join(chosen)} are both true, expected at most one of {', '.join(_RULES)}."
            )
