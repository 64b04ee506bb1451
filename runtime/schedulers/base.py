"""The base of every scheduler: config in and out, the checks of `set_timesteps`, and the state of one run."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Sample
from diffoundry.runtime.schedulers.arithmetic.noise import Generator
from diffoundry.runtime.schedulers.config import (
    DIFFUSERS_VERSION,
    KNOWN_OPTIONS,
    SchedulerConfig,
    read_config,
    without_defaults,
    write_config,
)
from diffoundry.runtime.schedulers.options import SchedulerOptions, build_options

__all__ = ["RunRequest", "Schedule", "Scheduler", "StepResult"]

C = TypeVar("C", bound=SchedulerOptions)


class StepResult(NamedTuple):
    """What `step` returns; also a tuple, like diffusers' `return_dict=False`.

    Attributes:
        prev_sample: the sample at the next, less noisy timestep.
        pred_original_sample: the clean sample predicted at this step, where diffusers gives it.
    """

    prev_sample: Sample
    pred_original_sample: Sample | None = None


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The arguments of `set_timesteps`, checked: unsupported ones are None, at least one is given."""

    num_inference_steps: int | None = None
    timesteps: Sequence[float] | None = None
    sigmas: Sequence[float] | None = None
    mu: float | None = None


class Schedule(NamedTuple):
    """The plan of one run.

    Attributes:
        timesteps: int64 or float32, (N,), what the model is told, in order.
        sigmas: noise levels, usually (N + 1,); float32, or float64 where diffusers has that; None where it has none.
        num_inference_steps: as asked for; differs from N where a step calls the model several times.
    """

    timesteps: NDArray[Any]
    sigmas: NDArray[Any] | None
    num_inference_steps: int | None


class Scheduler(Generic[C]):
    """A sampler with diffusers' interface on NumPy arrays.

    A subclass sets `Options` and `order`, and writes `_training_schedule`, `_schedule`, `_reset` and `step`.
    State of a run is rebound, never changed in place, so a shallow copy is a fork: `copy.copy(scheduler)`.
    Two instances share nothing; one instance serves one loop at a time.
    """

    Options: type[C]
    order: ClassVar[int] = 1
    compatible_names: ClassVar[tuple[str, ...]] = ()
    """Names of the classes that exchange configs with this one (diffusers: `_compatibles`)."""
    custom_schedules: ClassVar[frozenset[str]] = frozenset()
    """Which of "timesteps", "sigmas" and "mu" `set_timesteps` takes."""
    combines_schedules: ClassVar[bool] = False
    """Whether `num_inference_steps`, `timesteps` and `sigmas` may be given together."""
    takes_eta: ClassVar[bool] = False
    """Whether `step` has the argument `eta`."""
    needed_loop: ClassVar[str | None] = None
    """The loop that this scheduler needs, where `loop_step` cannot drive it: its pipeline class, and what it does."""

    def __init__(self, **options: Any) -> None:
        """Make a scheduler from options; those not given take diffusers' defaults.

        Raises:
            ConfigError: an unknown option or a value that is not honoured, by name.
        """
        self._initialise(options, hidden={})

    def _initialise(self, given: Mapping[str, Any], hidden: Mapping[str, Any]) -> None:
        """Bind options, config and training schedule.

        Args:
            given: options of this class.
            hidden: config keys of other classes, kept for them.
        """
        self.options: C = build_options(self.Options, type(self).__name__, given)
        values = asdict(self.options)
        unset = sorted(set(values) - set(given))
        self.config = SchedulerConfig({**hidden, **values, "_use_default_values": unset})
        self._prepare()
        self._adopt(self._training_schedule())

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | str | PathLike[str], **overrides: Any) -> Self:
        """Make a scheduler from a config of this class or of another one, as diffusers does.

        Options of other diffusers schedulers are kept in `config` and otherwise ignored.

        Args:
            config: a mapping (`other.config`), a `scheduler_config.json`, or the folder that holds it.
            overrides: options that win over the config's.

        Raises:
            ConfigError: a key that no diffusers scheduler has, a value that is not honoured, an unreadable file.
        """
        raw = {**without_defaults(read_config(config)), **overrides}
        own = {field.name for field in fields(cls.Options)}
        foreign = sorted(key for key in raw if key not in KNOWN_OPTIONS and not key.startswith("_"))
        if foreign:
            raise ConfigError(
                f"{cls.__name__}: config key '{foreign[0]}' is an option of no scheduler of diffusers "
                f"{DIFFUSERS_VERSION}: correct its spelling or remove it."
            )
        scheduler = cls.__new__(cls)
        hidden = {key: value for key, value in raw.items() if key not in own and key != "_class_name"}
        given = {key: value for key, value in raw.items() if key in own}
        scheduler._initialise(given, hidden)  # noqa: SLF001 - our own, `__init__` takes no hidden keys
        return scheduler

    def to_config(self) -> dict[str, Any]:
        """The config as diffusers would write it, ready for JSON."""
        kept = {key: value for key, value in self.config.items() if key != "_use_default_values"}
        return {**kept, "_class_name": type(self).__name__, "_diffusers_version": DIFFUSERS_VERSION}

    def save_config(self, folder: str | PathLike[str]) -> Path:
        """Write `scheduler_config.json` into a folder, which is made when missing; returns the file's path."""
        return write_config(self.to_config(), folder)

    @property
    def compatibles(self) -> list[type["Scheduler[Any]"]]:
        """The schedulers here that take this one's config."""
        # the registry loads the classes that import this module
        from diffoundry.runtime.schedulers.registry import scheduler_class, scheduler_names

        names = {type(self).__name__, *self.compatible_names} & set(scheduler_names())
        return [scheduler_class(name) for name in sorted(names)]

    @property
    def init_noise_sigma(self) -> float:
        """What the first noise is multiplied with."""
        return 1.0

    def scale_model_input(self, sample: Sample, timestep: float | None = None) -> Sample:  # noqa: ARG002
        """What the model is fed instead of the sample at a timestep; most schedulers feed the sample itself."""
        return sample

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Plan a run and forget the one before.

        Args:
            num_inference_steps: number of steps.
            timesteps: the timesteps themselves, descending, where the scheduler takes them.
            sigmas: the noise levels themselves, descending, where the scheduler takes them.
            mu: exponent of the resolution-dependent shift, for flow schedules with `use_dynamic_shifting`.

        Raises:
            InputError: an argument that this scheduler does not take, none at all, or two that exclude each other.
        """
        self._adopt(self._schedule(self._request(num_inference_steps, timesteps, sigmas, mu)))

    def step(self, *args: Any, **kwargs: Any) -> StepResult:
        """Advance the sample by one model call; each scheduler says what it takes.

        All take (model_output, timestep, sample), and `generator` by name where they draw noise.
        """
        raise NotImplementedError

    @property
    def takes_mu(self) -> bool:
        """Whether `set_timesteps` uses `mu`: the class knows dynamic shifting, and the config turns it on."""
        return "mu" in self.custom_schedules and bool(self.config.get("use_dynamic_shifting"))

    @property
    def model_timesteps(self) -> NDArray[Any]:
        """The timesteps at which a sampling loop calls the model: nearly always `timesteps`."""
        return self.timesteps

    def output_channels(self, channels: int) -> tuple[int, ...]:
        """Return the numbers of output channels that `step` accepts for a sample of `channels` channels."""
        return (channels,)

    def check_loop(
        self,
        *,
        channels: int | None = None,
        output_channels: int | None = None,
        eta: float = 0.0,
        mu: float | None = None,
    ) -> None:
        """Refuse a sampling loop that this scheduler cannot finish, before its first step.

        Such a loop calls the model with `scale_model_input(sample, t)` at each t of `model_timesteps`, then
        `loop_step`. It depends on the options alone, so that it can be checked before `set_timesteps`.

        Args:
            channels: of the sample; None leaves channels unchecked.
            output_channels: of the model's output; None leaves channels unchecked.
            eta: as for `loop_step`.
            mu: as for `set_timesteps`, given by the caller.

        Raises:
            InputError: the scheduler needs another loop or model, or ignores an argument.
        """
        name = type(self).__name__
        if self.needed_loop is not None:
            raise self._refusal(self.needed_loop)
        if channels is not None and output_channels is not None:
            expected = self.output_channels(channels)
            if output_channels not in expected:
                raise InputError(
                    f"{name} needs a model with {' or '.join(map(str, expected))} output channels for a sample of "
                    f"{channels} channels, but this model has {output_channels}. Choose another scheduler, for example "
                    "EulerDiscreteScheduler."
                )
        if eta and not self.takes_eta:
            raise InputError(f"{name} has no eta, but eta is {eta}. Leave it out, or choose DDIMScheduler.")
        if mu is not None and not self.takes_mu:
            raise InputError(
                f"{name} ignores mu, but mu is {mu}. Leave it out, or choose a flow-matching scheduler with the option "
                "'use_dynamic_shifting'."
            )

    def _refusal(self, needed_loop: str) -> InputError:
        return InputError(
            f"{type(self).__name__} cannot run in this denoising loop. It needs {needed_loop}. "
            "Choose another scheduler, for example EulerDiscreteScheduler."
        )

    def loop_step(
        self,
        model_output: Sample,
        timestep: float,
        sample: Sample,
        *,
        generator: Generator = None,
        eta: float | None = None,
        **arguments: Any,
    ) -> StepResult:
        """Call `step` as a sampling loop does: with the same arguments for every scheduler.

        Args:
            model_output: of the model that was fed `scale_model_input(sample, timestep)`.
            timestep: one of `model_timesteps`, in order.
            sample: as for `step`.
            generator: source of noise, where the scheduler draws any.
            eta: for schedulers with `takes_eta`, the others ignore it; None is the default of `step`.
            arguments: further keyword arguments of `step` that stay the same for the whole run, such as `s_churn`.
        """
        if eta is not None and self.takes_eta:
            arguments["eta"] = eta
        return self._loop_step(model_output, timestep, sample, generator=generator, **arguments)

    def _loop_step(
        self, model_output: Sample, timestep: Any, sample: Sample, *, generator: Generator, **arguments: Any
    ) -> StepResult:
        """Call `step`.

        A scheduler whose `step` takes more, as in diffusers (the following timestep, the clean sample predicted
        before), remembers or looks it up in an override.
        """
        return self.step(model_output, timestep, sample, generator=generator, **arguments)

    def copy(self) -> Self:
        """A fork: same options, same place in the run, independent from here on."""
        return copy.copy(self)

    def __len__(self) -> int:
        if "num_train_timesteps" not in self.config:
            raise TypeError(f"{type(self).__name__} has no length: its model knows no number of training steps.")
        return int(self.config["num_train_timesteps"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in asdict(self.options).items())})"

    def _prepare(self) -> None:
        """Compute what depends on the options alone."""

    def _training_schedule(self) -> Schedule:
        """The schedule before `set_timesteps`: every training step, descending."""
        raise NotImplementedError

    def _schedule(self, request: RunRequest) -> Schedule:
        """The schedule that a run asks for; pure, so that a refused request leaves the scheduler as it was."""
        raise NotImplementedError

    def _reset(self) -> None:
        """Bind fresh run state: histories, counters. Called whenever a schedule is adopted."""

    def _adopt(self, schedule: Schedule) -> None:
        self.timesteps = schedule.timesteps
        self.sigmas = schedule.sigmas
        self.num_inference_steps = schedule.num_inference_steps
        self._reset()

    def _request(
        self,
        num_inference_steps: int | None,
        timesteps: Sequence[float] | None,
        sigmas: Sequence[float] | None,
        mu: float | None,
    ) -> RunRequest:
        owner = type(self).__name__
        for name, value in (("timesteps", timesteps), ("sigmas", sigmas), ("mu", mu)):
            if value is not None and name not in self.custom_schedules:
                takes = ", ".join(["num_inference_steps", *sorted(self.custom_schedules)])
                raise InputError(f"{owner}.set_timesteps: got '{name}', which it does not take; it takes {takes}.")
            if isinstance(value, Sequence | np.ndarray) and len(value) == 0:
                raise InputError(f"{owner}.set_timesteps: '{name}' is empty, expected at least one value.")
        counts = {"num_inference_steps": num_inference_steps, "timesteps": timesteps, "sigmas": sigmas}
        given = [name for name, value in counts.items() if value is not None]
        if not given or (len(given) > 1 and not self.combines_schedules):
            choices = ", ".join(
                name for name in counts if name == "num_inference_steps" or name in self.custom_schedules
            )
            raise InputError(
                f"{owner}.set_timesteps: got {' and '.join(given) or 'nothing'}, expected exactly one of {choices}."
            )
        if num_inference_steps is not None and num_inference_steps < 1:
            raise InputError(
                f"{owner}.set_timesteps: num_inference_steps is {num_inference_steps}, expected at least 1."
            )
        return RunRequest(num_inference_steps=num_inference_steps, timesteps=timesteps, sigmas=sigmas, mu=mu)

    def _require_run(self) -> int:
        """The number of inference steps.

        Raises:
            InputError: `set_timesteps` was not called.
        """
        if self.num_inference_steps is None:
            raise InputError(f"{type(self).__name__}.step: no run is planned, call set_timesteps first.")
        return self.num_inference_steps
