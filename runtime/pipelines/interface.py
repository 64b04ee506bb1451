"""The half of a `DiffusionPipeline` around its calls: facts about the bundle, and the scheduler."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import FloatArray, TextEncoder
from diffoundry.runtime.models.roles import IMAGE_ENCODER, SAFETY_CHECKER, VAE_ENCODER
from diffoundry.runtime.models.safety_checker import StableDiffusionSafetyChecker
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.class_overrides import open_scheduler, override_sample_size
from diffoundry.runtime.pipelines.controlnet import ControlNets
from diffoundry.runtime.pipelines.example_inputs import (
    ADAPTER,
    CONTROL,
    CONTROL_MASK,
    CONTROL_MODE,
    PROMPT,
    example_input_names,
)
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.ip_adapter import ImagePrompts
from diffoundry.runtime.pipelines.parts import PART_INPUTS, Parts
from diffoundry.runtime.pipelines.registry import class_of_call, family_of_class
from diffoundry.runtime.pipelines.t2i_adapter import T2IAdapters
from diffoundry.runtime.pipelines.tasks.base import Task
from diffoundry.runtime.schedulers import Scheduler, make_scheduler

__all__ = ["PipelineInterface"]

_BOTH = (False, True)


class PipelineInterface(PipelineBase):
    """The half of `DiffusionPipeline` that no step runs through. See there for the attributes."""

    family: Family
    vae: AutoencoderKL
    parts: Parts
    safety_checker: StableDiffusionSafetyChecker | None

    def _set_up(self, tasks: Sequence[type[Task]]) -> None:
        """Read the scheduler's config, as each pipeline class corrects it.

        Raises:
            ConfigError: The scheduler is unknown, or has an option that is not honoured.
        """
        bundle = self.session.bundle
        self._tasks = tuple(tasks)
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
        if task.own_size is not None:
            return task.own_size
        size = self._sample_size(task, controlnet=controlnet)
        if size is None:
            raise InputError(
                f"height and width: the config of {self.denoiser.component!r} names no sample_size, so there is no "
                f"default size; pass both"
            )
        return size[0] * self.vae.scale_factor, size[1] * self.vae.scale_factor

    def check_call(self, arguments: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """See `PipelineBase`."""
        call: Any = self._parse(arguments)
        return call.images, call.arguments()

    def _parse(self, arguments: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    @property
    def controlnets(self) -> ControlNets:
        """The ControlNets."""
        return self.parts.controlnets

    @property
    def t2i_adapters(self) -> T2IAdapters:
        """The T2I-Adapters."""
        return self.parts.t2i_adapters

    @property
    def image_prompts(self) -> ImagePrompts:
        """The IP-Adapters."""
        return self.parts.image_prompts

    @property
    def scale_factor(self) -> int:
        """Pixels to a side of a latent."""
        return self.vae.scale_factor

    def handed_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`: latents, for a pipeline that starts from an image."""
        vae, factor = self.vae, self.vae.own_factor
        channels = vae.latent_channels * factor**2 // vae.scale_factor**2
        return {"image": ("images", channels, f"height/{factor}", f"width/{factor}")}

    def taken_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`."""
        if any(task.upscales for task in self._tasks):
            return {"image": ("images", "height", "width", 3)}
        starts = any(task.from_image for task in self._tasks)
        return {"image": self._latent_dims} if starts else {}

    @property
    def _latent_dims(self) -> tuple[int | str, ...]:
        factor = self.vae.scale_factor
        return "images", self.vae.latent_channels, f"height/{factor}", f"width/{factor}"

    def handed_over(self, result: Any) -> dict[str, Any]:
        """See `PipelineBase`."""
        return {"image": result.images}

    @property
    def example_scale(self) -> int:
        """See `PipelineBase`."""
        return self.vae.scale_factor if self.default_task.upscales else 1

    def size_arguments(self, height: int, width: int) -> dict[str, Any]:
        """See `PipelineBase`."""
        return self.family.size_arguments(height, width)

    @property
    def argument_names(self) -> frozenset[str]:
        """Names of all arguments that a call may have, whatever its task."""
        kinds: tuple[Any, ...] = (CommonInputs, self.family.Inputs, *PART_INPUTS, *self._tasks)
        names = frozenset(field.name for kind in kinds for field in fields(kind))
        return names - frozenset(getattr(self.family, "ignored_args", ()))

    @property
    def scales_latents(self) -> bool:
        """As `Family.scales_latents`."""
        return self.family.scales_latents

    def pack(self, latents: FloatArray) -> FloatArray:
        """See `PipelineBase`."""
        return self.family.pack(latents)

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
        """The names for `make_example_inputs`: arguments of the default task, and an image for each joined network."""
        counts = {
            CONTROL: len(self.controlnets.names),
            ADAPTER: len(self.t2i_adapters.names),
            PROMPT: len(self.image_prompts.names),
        }
        estimates = self.family.depth_estimator is not None
        texts = bool(self.text_encoders)
        mask = (CONTROL_MASK,) if self.controlnets.takes_mask else ()
        mode = (CONTROL_MODE,) if self.controlnets.takes_mode else ()
        return *example_input_names(self.default_task, counts, texts=texts, estimates_depth=estimates), *mask, *mode

    @property
    def used_components(self) -> tuple[str, ...]:
        """The components that the default task runs."""
        spared = [] if self.default_task.from_image or self.controlnets.encodes_image else [VAE_ENCODER]
        if not getattr(self.default_task, "shows_example", True):
            spared.append(IMAGE_ENCODER)
        if self.safety_checker is None:
            spared.append(SAFETY_CHECKER)
        bundle = self.session.bundle
        return tuple(name for name in bundle.components if bundle.role(name) not in spared)

    def __repr__(self) -> str:
        session = self.session
        tasks = " | ".join(task.name for task in reversed(self._tasks))
        opened = ", ".join(session.opened) or "none yet"
        return (
            f"{type(self).__name__}({str(session.bundle.root)!r}: {session.bundle.pipeline_class}, {tasks}, "
            f"{type(self.scheduler).__name__}, {session.request}, open engines: {opened})"
        )
