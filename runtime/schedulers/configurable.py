"""The half of a scheduler that holds its options: made from them, from a config, and written back as one."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers.check_options import build_options
from diffoundry.runtime.schedulers.config import (
    DIFFUSERS_VERSION,
    KNOWN_OPTIONS,
    SchedulerConfig,
    read_config,
    without_defaults,
    write_config,
)
from diffoundry.runtime.schedulers.guard import GUARDED, guarded
from diffoundry.runtime.schedulers.options import SchedulerOptions
from diffoundry.runtime.suggest import did_you_mean

if TYPE_CHECKING:
    from diffoundry.runtime.schedulers.base import Scheduler

__all__ = ["Configurable"]

C = TypeVar("C", bound=SchedulerOptions)


class Configurable(Generic[C]):
    """An object with options that diffusers' configs hold; diffusers: `ConfigMixin`.

    Attributes:
        options: the options of this class, checked.
        config: the same with the keys that are kept for other classes.
    """

    Options: type[C]
    compatible_names: ClassVar[tuple[str, ...]] = ()
    """Names of the classes that exchange configs with this one (diffusers: `_compatibles`)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Guard the methods that a class defines; see `guarded`."""
        super().__init_subclass__(**kwargs)
        for name in GUARDED:
            if name in vars(cls):
                setattr(cls, name, guarded(vars(cls)[name]))

    def __init__(self, **options: Any) -> None:
        """Make a scheduler from options; the others take diffusers' defaults.

        Raises:
            ConfigError: an unknown option or a value that is not honoured, by name.
        """
        self._initialise(options, hidden={})

    def _initialise(self, given: Mapping[str, Any], hidden: Mapping[str, Any]) -> None:
        """Bind options and config, then set up what depends on them.

        Args:
            given: options of this class.
            hidden: config keys of other classes, kept for them.
        """
        self.options: C = build_options(self.Options, type(self).__name__, given)
        values = asdict(self.options)
        unset = sorted(set(values) - set(given))
        self.config = SchedulerConfig({**hidden, **values, "_use_default_values": unset})
        self._set_up()

    def _set_up(self) -> None:
        """Compute what depends on the options alone."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | str | PathLike[str], **overrides: Any) -> Self:
        """Make a scheduler from a config of this class or of another one, as diffusers does.

        Options of other diffusers schedulers are kept in `config` and otherwise ignored.

        Args:
            config: `config` of a scheduler, another mapping, a `scheduler_config.json`, or the folder that holds it.
            overrides: options that win over the config's.

        Raises:
            ConfigError: a key that no diffusers scheduler has, a value that is not honoured, an unreadable file.
        """
        raw = {**without_defaults(read_config(config)), **overrides}
        own = {field.name for field in fields(cls.Options)}
        known = KNOWN_OPTIONS | own | (set(config) if isinstance(config, SchedulerConfig) else set())
        foreign = sorted(key for key in raw if key not in known and not key.startswith("_"))
        if foreign:
            raise ConfigError(
                f"{cls.__name__}: config key '{foreign[0]}' is not an option of any scheduler of diffusers "
                f"{DIFFUSERS_VERSION}.{did_you_mean(foreign[0], KNOWN_OPTIONS)} Correct or remove it."
            )
        scheduler = cls.__new__(cls)
        hidden = {key: value for key, value in raw.items() if key not in own and key != "_class_name"}
        given = {key: value for key, value in raw.items() if key in own}
        scheduler._initialise(given, hidden)  # noqa: SLF001 - our own, `__init__` takes no hidden keys
        return scheduler

    @classmethod
    def from_pretrained(cls, path: str | PathLike[str], subfolder: str | None = None, **overrides: Any) -> Self:
        """Make a scheduler from the config in a folder, or in a subfolder of a bundle or checkpoint.

        Args:
            path: The folder.
            subfolder: Of `path`, usually "scheduler".
            overrides: options that win over the config's.

        Raises:
            ConfigError: as `from_config`.
        """
        return cls.from_config(Path(path) / (subfolder or ""), **overrides)

    def to_config(self) -> dict[str, Any]:
        """Return the config as diffusers would write it, ready for JSON."""
        kept = {key: value for key, value in self.config.items() if key != "_use_default_values"}
        return {**kept, "_class_name": type(self).__name__, "_diffusers_version": DIFFUSERS_VERSION}

    def save_config(self, folder: str | PathLike[str]) -> Path:
        """Write `scheduler_config.json` into a folder and return its path; makes the folder if necessary."""
        return write_config(self.to_config(), folder)

    save_pretrained = save_config

    @property
    def compatibles(self) -> "list[type[Scheduler[Any]]]":
        """The schedulers of this package that read this one's config."""
        # the registry loads the classes that import this module
        from diffoundry.runtime.schedulers.registry import scheduler_class, scheduler_names

        names = {type(self).__name__, *self.compatible_names} & set(scheduler_names())
        return [scheduler_class(name) for name in sorted(names)]

    def _carried_ends(self, low: float, high: float) -> tuple[float, float]:
        """Return the ends of placed noise levels: `sigma_min` and `sigma_max` of the config, even if another class's.

        diffusers: `_convert_to_karras`, `_convert_to_exponential`, `_convert_to_beta`.

        Args:
            low: the lower end of the run, where the config has none.
            high: the upper end.

        Raises:
            ConfigError: an end that is no number.
        """
        ends = []
        for name, own in (("sigma_min", low), ("sigma_max", high)):
            value = self.config.get(name)
            if not isinstance(value, int | float | None):
                raise ConfigError(f"scheduler config: '{name}' is {value!r}, expected a number or null.")
            ends.append(own if value is None else float(value))
        return ends[0], ends[1]

    def __len__(self) -> int:
        if "num_train_timesteps" not in self.config:
            raise TypeError(f"{type(self).__name__} has no length: its model knows no number of training steps.")
        return int(self.config["num_train_timesteps"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in asdict(self.options).items())})"
