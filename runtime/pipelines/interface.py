"""The half of a pipeline around its calls: facts about the bundle, the scheduler, closing, and diffusers' habits."""

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.protocols import TextEncoder
from diffoundry.runtime.models.roles import SAFETY_CHECKER, VAE_ENCODER
from diffoundry.runtime.models.safety_checker import StableDiffusionSafetyChecker
from diffoundry.runtime.pipelines import habits
from diffoundry.runtime.pipelines.callback import current_signal
from diffoundry.runtime.pipelines.class_overrides import open_scheduler, override_sample_size
from diffoundry.runtime.pipelines.controlnet import ControlNets
from diffoundry.runtime.pipelines.denoising import StopSignal
from diffoundry.runtime.pipelines.example_inputs import example_input_names
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.registry import class_of_call, family_of_class
from diffoundry.runtime.pipelines.tasks.base import Task
from diffoundry.runtime.schedulers import Scheduler, make_scheduler

if TYPE_CHECKING:
    from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline

__all__ = ["PipelineInterface"]

_BOTH = (False, True)


class PipelineInterface:
    """The half of `DiffusionPipeline` that no step runs through. See there for the attributes."""

    session: EngineSession
    family: Family
    controlnets: ControlNets
    safety_checker: StableDiffusionSafetyChecker | None

    def _set_up(self, tasks: Sequence[type[Task]]) -> None:
        """Read the scheduler's config, as each pipeline class corrects it.

        Raises:
            ConfigError: The scheduler is unknown, or has an option that is not honoured.
        """
        bundle = self.session.bundle
        self._tasks = tuple(tasks)
        self._signals: weakref.WeakSet[StopSignal] = weakref.WeakSet()
        self._signals_lock = threading.Lock()
        self._classes = {
            (t.name, c): class_of_call(bundle.pipeline_class, t.name, controlnet=c) for t in tasks for c in _BOTH
        }
        self._version = bundle.config(self.family.denoiser.component).get("_diffusers_version")
        self.scheduler_config = bundle.read_object("scheduler/scheduler_config.json")

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """The checkpoint's scheduler config, as it is in the bundle."""
        return self._scheduler_config

    @scheduler_config.setter
    def scheduler_config(self, config: Mapping[str, Any]) -> None:
        self._schedulers = {key: open_scheduler(config, name) for key, name in self._classes.items()}
        self._scheduler_config = config
        self._own_scheduler: Scheduler[Any] | None = None

    @property
    def scheduler(self) -> Scheduler[Any]:
        """The scheduler of calls without `scheduler=`; each call works on a copy.

        Set it to an instance, a class or a name: `pipe.scheduler = EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, use_karras_sigmas=True)`, or `pipe.scheduler = "dpmpp_2m_karras"`.
        """
        return self._own_scheduler or self._schedulers[self.default_task.name, bool(self.controlnets.names)]

    @scheduler.setter
    def scheduler(self, scheduler: str | type[Scheduler[Any]] | Scheduler[Any]) -> None:
        made = make_scheduler(scheduler, self.scheduler.config, flow=not self.family.scales_latents)
        self._own_scheduler = scheduler if isinstance(scheduler, Scheduler) else made

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width in pixels that the checkpoint was trained for.

        Raises:
            InputError: Its config does not say.
        """
        return self._default_size(self.default_task, controlnet=False)

    def _sample_size(self, task: type[Task], *, controlnet: bool) -> tuple[int, int] | None:
        """Return the sides of the latents that the pipeline class of a call generates; None without a config."""
        size = self.family.denoiser.sample_size
        return override_sample_size(self._classes[task.name, controlnet], size, self._version)

    def _default_size(self, task: type[Task], *, controlnet: bool) -> tuple[int, int]:
        raise NotImplementedError

    @property
    def text_encoders(self) -> tuple[TextEncoder, ...]:
        """The text encoders, in the order in which they are used; none where an image conditions."""
        return self.family.text_encoders

    @property
    def default_task(self) -> type[Task]:
        """The task of the pipeline class that the checkpoint names; otherwise the one with the fewest arguments."""
        name = self.session.bundle.pipeline_class
        entry = family_of_class(name)
        return next((task for task in self._tasks if entry and task.name == entry.classes[name].task), self._tasks[-1])

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """The names for `make_example_inputs`: arguments of the default task, and an image for each ControlNet."""
        return example_input_names(self.default_task, len(self.controlnets.names), texts=bool(self.text_encoders))

    @property
    def used_components(self) -> tuple[str, ...]:
        """The components that the default task runs."""
        spared = [] if self.default_task.from_image else [VAE_ENCODER]
        if self.safety_checker is None:
            spared.append(SAFETY_CHECKER)
        bundle = self.session.bundle
        return tuple(name for name in bundle.components if bundle.role(name) not in spared)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **options: Any) -> "DiffusionPipeline":
        """Open a bundle; the same as `diffoundry.load`, under diffusers' name.

        Args:
            path: The bundle.
            options: Those of `load`, and `scheduler`, as the property of this name takes it.

        Raises:
            InputError: An option of diffusers that is chosen otherwise here; the message says how.
        """
        return habits.from_pretrained(path, options)

    def to(self, *targets: Any) -> Self:
        """Return the pipeline itself where its engines run on that device; engines cannot move.

        Raises:
            InputError: They run elsewhere, or the argument is a precision; the message says how to load it so.
        """
        for target in targets:
            habits.check_target(self.session, target)
        return self

    def close(self) -> None:
        """Free all engines. Engine calls under way end first; a later call raises `EngineError`."""
        self.session.shut_down()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _interrupt(self) -> bool:
        """As in diffusers: True ends the denoising after the step under way, and its latents are decoded.

        Set in a callback it concerns the run of this callback, otherwise all runs of this pipeline.
        """
        signal = current_signal()
        return signal is not None and signal.interrupted

    @_interrupt.setter
    def _interrupt(self, interrupted: bool) -> None:
        signal = current_signal()
        with self._signals_lock:
            for one in list(self._signals) if signal is None else [signal]:
                one.interrupted = bool(interrupted)

    if not TYPE_CHECKING:  # a type checker shall refuse unknown names

        def __getattr__(self, name: str) -> Any:
            return habits.find_attribute(self, name)

    def __repr__(self) -> str:
        session = self.session
        tasks = " | ".join(task.name for task in reversed(self._tasks))
        opened = ", ".join(session.opened) or "none yet"
        return (
            f"{type(self).__name__}({str(session.bundle.root)!r}: {session.bundle.pipeline_class}, {tasks}, "
            f"{type(self.scheduler).__name__}, {session.request}, open engines: {opened})"
        )
