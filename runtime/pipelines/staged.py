"""The base of pipelines that `DiffusionPipeline` does not cover: other loops, pixel space, several stages.

A system is one class in `runtime/pipelines/systems/`. It names its arguments in a dataclass, opens its networks in
`open_networks`, and returns its stages. A stage is a loop over one scheduler, usually `denoise`. Everything around
them is here: arguments, seeds, schedulers, the run, cancelling, callbacks, and what the commands ask of a pipeline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.checks.image_size import check_size
from diffoundry.runtime.checks.sort_arguments import misplaced_argument, sort_arguments
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError, UnknownArgumentError
from diffoundry.runtime.models.protocols import Denoiser, FloatArray, TextEncoder
from diffoundry.runtime.pipelines.approximations.split_caches import check_split_cache
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.callback import make_step_end
from diffoundry.runtime.pipelines.denoising import StopSignal
from diffoundry.runtime.pipelines.habits import argument_advice
from diffoundry.runtime.pipelines.output import PipelineOutput
from diffoundry.runtime.pipelines.staged_call import RunInputs, StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage, StagedRun, run_stages
from diffoundry.runtime.random.seeds import make_generators
from diffoundry.runtime.schedulers import Scheduler, SchedulerInput, make_scheduler, scheduler_from_config

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["StagedPipeline"]


S = TypeVar("S", bound=Scheduler[Any])

_COUNTS = ("num_inference_steps", "num_images_per_prompt", "batch_size")
"""Arguments that count something, at least one."""


class StagedPipeline(PipelineBase):
    """A pipeline of one or several stages. Several threads may share one: every call has its own schedulers.

    Attributes:
        Inputs: Dataclass of the system's own arguments, with a method `check()`.
        label: The system in a message, such as "unconditional images".
        scheduler_folders: Folders of its schedulers in the checkpoint; the last is the main one. Empty where there are
            no steps.
        scales_latents: As in `Family`.
        only_scheduler: Name of the only scheduler class that runs; None for all that fit the config.
        follows_scheduler: True if the latents of each step are what a scheduler returned. False if the system changes
            them afterwards, so that a verification has to follow the callback of diffusers' pipeline.
        own_loop: True if its loop is not `StagedCall.denoise`, so that no step of it can be forecast.
        session: The engines.
        checks_safety: True if images go through the bundle's safety checker, where it has one.
        denoiser: The network of the last stage.
        schedulers: Folder of a scheduler to the scheduler of calls; each call works on copies.
        text_encoders: In the order in which they are used.
    """

    Inputs: ClassVar[type[Any]]
    label: ClassVar[str]
    scheduler_folders: ClassVar[tuple[str, ...]] = ("scheduler",)
    scales_latents: ClassVar[bool] = True  # type: ignore[misc]  # commands ask a pipeline and its class
    only_scheduler: ClassVar[str | None] = None
    own_loop: ClassVar[bool] = False
    follows_scheduler: bool = True

    checks_safety: bool

    denoiser: Denoiser
    text_encoders: tuple[TextEncoder, ...] = ()

    def __init__(self, session: EngineSession, *, safety_checker: bool = True) -> None:
        """Read the configs; engines are opened when first needed.

        Args:
            session: The engines.
            safety_checker: True runs the safety checker of a bundle that has one.

        Raises:
            BundleError: The bundle lacks a component or a config.
            ConfigError: A scheduler is unknown, or has an option that is not honoured.
        """
        super().__init__(session)
        self.checks_safety = safety_checker
        self.schedulers = {
            folder: self.open_scheduler(folder, session.bundle.read_object(f"{folder}/scheduler_config.json"))
            for folder in self.scheduler_folders
        }
        self.open_networks(session)

    # What a system defines.

    def open_networks(self, session: EngineSession) -> None:
        """Open the wrappers of the networks, `denoiser` among them.

        Raises:
            BundleError: The bundle lacks a component, a tokenizer or a config.
        """
        raise NotImplementedError

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """Return the stages of a call, their schedulers' timesteps set. Noise is drawn while they run, in order."""
        raise NotImplementedError

    def images(self, inputs: Any) -> int:
        """Return the number of images of a call; by default the prompts times the images of each, or `batch_size`."""
        if hasattr(inputs, "batch_size"):
            return int(inputs.batch_size)
        return int(getattr(inputs, "count", 1)) * int(getattr(inputs, "num_images_per_prompt", 1))

    def size(self, inputs: Any) -> tuple[int, int]:
        """Return height and width in pixels that networks see; by default those of the call or the checkpoint's own."""
        height, width = getattr(inputs, "height", None), getattr(inputs, "width", None)
        own = (height, width) if height and width else self.default_size
        return height or own[0], width or own[1]

    def result_size(self, inputs: Any) -> tuple[int, int]:
        """Return height and width of the result in pixels; those of `size`, unless the system resizes its images."""
        return self.size(inputs)

    def size_multiple(self) -> int:
        """Return the number of which both sides of an image are multiples; 1 for any size."""
        return 1

    def size_factors(self) -> tuple[int, int]:
        """Return the factors of `size_multiple`: the pixels to a latent, and the latents of which there are multiples.

        The second is 1 where the first alone decides.
        """
        multiple, pixels = self.size_multiple(), self.scale_factor
        return (multiple, 1) if multiple % pixels or pixels == 1 else (pixels, multiple // pixels)

    def decode(self, latents: FloatArray, output_type: str = "pil") -> "list[Image] | FloatArray":
        """Return the images of the last step's result (B, ...), as `CommonInputs.output_type` says."""
        raise NotImplementedError

    def show(self, call: StagedCall, latents: FloatArray, output_type: str) -> tuple[Any, list[bool] | None]:  # noqa: ARG002
        """Decode, with a safety checker where the system has one: the images, and its flags or None."""
        return self.decode(latents, output_type), None

    def truncated(self, inputs: Any) -> tuple[str, ...]:  # noqa: ARG002
        """Return the part of each prompt that does not fit into a text encoder; none without prompts."""
        return ()

    def open_scheduler(self, folder: str, config: Mapping[str, Any]) -> Scheduler[Any]:  # noqa: ARG002
        """Return the scheduler of a folder, as the pipeline class of diffusers takes it in its `__init__`.

        Raises:
            ConfigError: It is unknown, or has an option that is not honoured.
        """
        return scheduler_from_config(config)

    def require_scheduler(self, scheduler: Scheduler[Any], kind: type[S]) -> S:
        """Return the scheduler of a loop that only one class can drive.

        Raises:
            InputError: It is of another class.
        """
        if isinstance(scheduler, kind):
            return scheduler
        raise InputError(
            f"scheduler: got {type(scheduler).__name__}, expected {kind.__name__}: the loop of "
            f"{self.session.bundle.pipeline_class} runs no other; leave it out"
        )

    def inputs_class(self, given: Sequence[str]) -> type[Any]:  # noqa: ARG002
        """Return the dataclass of a call's arguments, by the names of those that are not None."""
        return self.Inputs

    @classmethod
    def input_classes(cls) -> Sequence[type[Any]]:
        """Return every dataclass that `inputs_class` may return."""
        return (cls.Inputs,)

    def result(self, call: StagedCall, latents: FloatArray, seed: Any, truncated: tuple[str, ...]) -> Any:
        """Return the result of a call: images, unless the system makes something else."""
        images, flags = self.show(call, latents, call.common.output_type)
        return PipelineOutput(images=images, seed=seed, truncated=truncated, nsfw_content_detected=flags)

    # The same for all.

    def __call__(self, prompt: Any = None, *, return_dict: bool = True, **arguments: Any) -> Any:
        """Generate.

        Args:
            prompt: One prompt or several, where the system takes any.
            return_dict: False returns the tuple that diffusers' pipeline class returns, images first.
            arguments: Fields of `RunInputs` and of `Inputs`, under diffusers' names.

        Raises:
            InputError: An argument does not fit; the message names it.
            EngineError: An engine cannot be opened, or failed.
        """
        result = self.start(prompt, **arguments).finish()
        return result if return_dict else result.to_tuple()

    def start(self, prompt: Any = None, **arguments: Any) -> StagedRun:
        """Prepare a run: iterate over the result for steps and previews, then `finish` it.

        Raises:
            InputError: As `__call__`.
        """
        common, inputs = self._parse({"prompt": prompt, **arguments})
        size, images = self.size(inputs), self.images(inputs)
        manifest = self.session.bundle.manifest
        check_size(size, *self.size_factors(), manifest.recipe if manifest else None)
        own = getattr(inputs, "latents", None)
        seed, generator = make_generators(common.seed, common.generator, images, has_latents=own is not None)
        signal = StopSignal()
        with self._signals_lock:
            self._signals.add(signal)
        callback, names = common.callback_on_step_end, common.callback_on_step_end_tensor_inputs
        call = StagedCall(
            inputs=inputs,
            common=common,
            images=images,
            size=size,
            generator=generator,
            schedulers=self._run_schedulers(common),
            signal=signal,
            step_end=callback and make_step_end(callback, names, self, {}, {}, signal),
        )
        stages = self.stages(call)
        values = {field.name: getattr(kind, field.name) for kind in (common, inputs) for field in fields(kind)}
        sizes = dict(zip(("height", "width"), self.result_size(inputs), strict=True))
        return StagedRun(
            steps=run_stages(stages, signal),
            total=sum(stage.total for stage in stages),
            count=images,
            latents=np.empty(0, np.float32),
            decode=partial(self.show, call),
            finish_images=None,
            output_type=common.output_type,
            seed=seed,
            truncated=self.truncated(inputs),
            scheduler=call.scheduler if call.schedulers else None,
            arguments={name: value for name, value in {**values, **sizes}.items() if value is not None},
            signal=signal,
            last_stage=stages[-1].name if self.makes_images else "no stage of it",
            make_result=partial(self.result, call),
        )

    def check_call(self, arguments: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """See `PipelineBase`: a run draws and computes nothing before its first step."""
        run = self.start(**{**arguments, "seed": 0})
        return run.count, dict(run.arguments)

    def _parse(self, arguments: Mapping[str, Any]) -> tuple[RunInputs, Any]:
        """Sort the arguments of a call and check them."""
        kind = self.inputs_class([name for name, value in arguments.items() if value is not None])
        if "prompt" not in {field.name for field in fields(kind)}:
            arguments = dict(arguments)
            prompt = arguments.pop("prompt")
            if prompt is not None:
                raise InputError(
                    f"prompt: got {prompt!r}, expected none: {self.label} are what this checkpoint generates, and it "
                    f"takes no text; leave it out"
                )
        try:
            common, inputs = sort_arguments(arguments, (RunInputs, kind), argument_advice)
        except UnknownArgumentError as error:
            given = {name: value for name, value in arguments.items() if value is not None}
            raise misplaced_argument(error, given, self.inputs_class) from None
        common.check()
        name = self.session.bundle.pipeline_class
        if common.cache is not None and self.own_loop:
            raise InputError(
                f"cache: got {common.cache!r}, expected none: the loop of {name} calls its network in every step; "
                f"leave it out"
            )
        for option in () if self.scheduler_folders else ("cache", "scheduler", "callback_on_step_end"):
            if getattr(common, option) is not None:
                raise InputError(f"{option}: got one, expected none: {name} has no steps; leave it out")
        check_split_cache(common.cache, self.session)
        for field in fields(kind):
            value = getattr(inputs, field.name)
            if field.name in _COUNTS and not (value is None and field.default is None):
                check_number(field.name, value, 1, whole=True)
        inputs.check()
        return common, inputs

    def _run_schedulers(self, common: RunInputs) -> dict[str, Scheduler[Any]]:
        """Return a copy of every scheduler, the main one replaced by the call's."""
        copies = {folder: scheduler.copy() for folder, scheduler in self.schedulers.items()}
        if common.scheduler is not None:
            main = self.scheduler_folders[-1]
            copies[main] = make_scheduler(common.scheduler, copies[main].config, flow=not self.scales_latents)
        return copies

    @property
    def scheduler(self) -> Scheduler[Any]:
        """The main scheduler of calls without `scheduler=`; set it as `DiffusionPipeline.scheduler`."""
        return self.schedulers[self.scheduler_folder]

    @scheduler.setter
    def scheduler(self, scheduler: SchedulerInput) -> None:
        made = make_scheduler(scheduler, self.scheduler.config, flow=not self.scales_latents)
        self.schedulers[self.scheduler_folder] = scheduler if isinstance(scheduler, Scheduler) else made

    @property
    def scheduler_name(self) -> str:
        """See `PipelineBase`."""
        return type(self.scheduler).__name__ if self.schedulers else "no scheduler"

    @property
    def has_one_scheduler(self) -> bool:
        """See `PipelineBase`."""
        return bool(self.schedulers)

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """The checkpoint's config of the main scheduler, as it is in the bundle."""
        return self.session.bundle.read_object(f"{self.scheduler_folder}/scheduler_config.json")

    @scheduler_config.setter
    def scheduler_config(self, config: Mapping[str, Any]) -> None:
        main = self.scheduler_folder
        self.schedulers[main] = self.open_scheduler(main, config)

    @property
    def scheduler_folder(self) -> str:
        """Folder of the main scheduler.

        Raises:
            InputError: It has none.
        """
        if not self.scheduler_folders:
            raise InputError(
                f"scheduler: {self.session.bundle.pipeline_class} has no scheduler and no steps; leave it out, or set "
                f"that of the pipeline after it in a chain"
            )
        return self.scheduler_folders[-1]

    @property
    def argument_names(self) -> frozenset[str]:
        """Names of all arguments that a call may have."""
        kinds: tuple[Any, ...] = (RunInputs, *self.input_classes())
        return frozenset(field.name for kind in kinds for field in fields(kind))

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width in pixels that the checkpoint was trained for.

        Raises:
            InputError: Its config does not say.
        """
        size = self.denoiser.sample_size
        if size is None:
            raise InputError(
                f"height and width: the config of {self.denoiser.component!r} names no sample_size, so there is no "
                f"default size; pass both"
            )
        return size[0] * self.scale_factor, size[1] * self.scale_factor

    @property
    def used_components(self) -> tuple[str, ...]:
        """The components that a default call runs; by default all."""
        return tuple(self.session.bundle.components)

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """The names for `make_example_inputs` that a default call takes besides its size."""
        return ()

    def __repr__(self) -> str:
        session = self.session
        opened = ", ".join(session.opened) or "none yet"
        return (
            f"{type(self).__name__}({str(session.bundle.root)!r}: {session.bundle.pipeline_class}, "
            f"{self.scheduler_name}, {session.request}, open engines: {opened})"
        )
