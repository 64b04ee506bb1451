"""Drives the components of a bundle: a family conditions the denoiser, a task says what is made of what."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.adapters.loaded import Adapters
from diffoundry.runtime.adapters.pipeline import Adaptable
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.images.pixels import to_pil
from diffoundry.runtime.pipelines.arguments import sort_arguments
from diffoundry.runtime.pipelines.callback import make_step_end
from diffoundry.runtime.pipelines.classes import PIPELINE_CLASSES
from diffoundry.runtime.pipelines.condition import Feeds, Frame
from diffoundry.runtime.pipelines.control import ControlNets, Residuals
from diffoundry.runtime.pipelines.control_arguments import Control
from diffoundry.runtime.pipelines.denoising import denoise, set_timesteps
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.families.clip import ClipEncoder
from diffoundry.runtime.pipelines.guidance import Guidance
from diffoundry.runtime.pipelines.latents import LatentCodec
from diffoundry.runtime.pipelines.request import Request, check_request, make_generator_for
from diffoundry.runtime.pipelines.run import PipelineOutput, Run
from diffoundry.runtime.pipelines.safety import COMPONENT, SafetyChecker
from diffoundry.runtime.pipelines.stand_in import CONTROL, SEEN, STAND_INS
from diffoundry.runtime.pipelines.tasks import choose_task, possible_tasks
from diffoundry.runtime.pipelines.tasks.base import Stage, Task
from diffoundry.runtime.pipelines.tasks.schedule import cut_end
from diffoundry.runtime.pipelines.vae_memory import Frugal
from diffoundry.runtime.schedulers import Scheduler, scheduler_class, scheduler_from_config

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DiffusionPipeline"]

FloatArray = npt.NDArray[np.float32]


class DiffusionPipeline(Adaptable, Frugal):
    """A bundle's components, ready to generate. Several threads may share one: every call has its own scheduler.

    Attributes:
        components: The engines.
        adapters: What is loaded into them.
        family: How prompts become inputs of the denoiser.
        codec: Images to latents and back.
        controlnets: What guides the denoiser by images.
        safety_checker: What finished images are shown to, or None; it may be set to None at any time.
        scheduler_config: The checkpoint's.
    """

    def __init__(self, components: EngineSession, family: Family, safety_checker: SafetyChecker | None = None) -> None:
        """Read the configs; engines are opened when first needed.

        Raises:
            BundleError: The bundle lacks a component or a config, or its denoiser takes what no task feeds.
        """
        bundle = components.bundle
        for name in ("unet", "vae_decoder"):
            bundle.engines(name)
        self.components = components
        self.adapters = Adapters(components)
        self.family = family
        self.codec = LatentCodec(components, standardizes=family.standardizes)
        self.controlnets = ControlNets(components)
        self.safety_checker = safety_checker
        self.scheduler_config: Mapping[str, Any] = bundle.read_json("scheduler/scheduler_config.json")
        self._unet = bundle.config("unet")
        self._extra_channels: int = self._unet["in_channels"] - self.codec.channels
        taken = [field.name for field in fields(family.Arguments)]
        self._tasks = possible_tasks(self._extra_channels, self.codec.channels, family.needs, taken)
        if not self._tasks:
            raise BundleError(
                f"bundle {bundle.root}: got a UNet of {self._unet['in_channels']} channels over latents of "
                f"{self.codec.channels}, which no task of this version feeds; upgrade diffoundry"
            )

    @property
    def encoders(self) -> tuple[ClipEncoder, ...]:
        """See `Adaptable`."""
        return self.family.encoders

    @property
    def vae_scale_factor(self) -> int:
        """Pixels to a latent."""
        return self.codec.factor

    @property
    def usual_task(self) -> type[Task]:
        """What the checkpoint calls itself a pipeline for; where it does not, the task that needs the least."""
        known = PIPELINE_CLASSES.get(self.components.bundle.pipeline_class)
        return next((task for task in self._tasks if known and task.name == known.task), self._tasks[-1])

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """What `size_arguments` stands in for.

        Arguments of the usual task and an image for each ControlNet, or `SEEN` for what a family without texts sees.
        """
        if not self.encoders:
            return (SEEN,)
        own = [name for name in STAND_INS if name in getattr(self.usual_task, "__dataclass_fields__", {})]
        return (*own, *[CONTROL] * len(self.controlnets.names))

    @property
    def used_components(self) -> tuple[str, ...]:
        """The components that the usual task runs."""
        spared = [] if self.usual_task.from_image else ["vae_encoder"]
        if self.safety_checker is None:
            spared.append(COMPONENT)
        return tuple(name for name in self.components.bundle.components if name not in spared)

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width in pixels that the checkpoint was trained for."""
        size = self._unet["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.codec.factor, width * self.codec.factor

    def __call__(self, prompt: str | Sequence[str] | None = None, **arguments: Any) -> PipelineOutput:
        """Generate.

        Args:
            prompt: One prompt or several; None where `prompt_embeds` are given.
            arguments: Any field of `Request`, of the family's `Arguments` and of the task, under diffusers' names.
                With `image` an image is the beginning.

        Raises:
            InputError: An argument does not fit; the message names it.
            EngineError: An engine cannot be opened, or failed.
        """
        return self.start(prompt, **arguments).finish()

    def start(self, prompt: str | Sequence[str] | None = None, **arguments: Any) -> Run:
        """The same image step by step: iterate over the result for steps and previews, then `finish` it.

        Raises:
            InputError: As `__call__`.
        """
        given = {"prompt": prompt, **arguments}
        task_class = choose_task(self._tasks, [name for name, value in given.items() if value is not None])
        shown = arguments.get("control_image") is not None
        defaults = (self.family.guided_defaults if shown else self.family.defaults).get(task_class.name, {})
        kinds = (Request, self.family.Arguments, Control, task_class)
        request, prompts, control, task = sort_arguments({**defaults, **given}, kinds, task_class, self._tasks)
        prompts.check()
        task.check(request)
        guided = not shown or task.name in self.family.guided_defaults
        self.controlnets.check(control, prompts.count, None if guided else task.label)
        usual = control.size(len(self.controlnets.names)) or self.default_size
        height, width = task.size(request, usual, self.codec)
        self._check(request, height, width)
        control.check_size(len(self.controlnets.names), *task.canvas(height, width))
        if task.from_image or request.output_type != "latent":
            self.codec.check_tiles(height, width)
        scheduler = self.scheduler(request.scheduler)
        steps = set_timesteps(scheduler, request.num_inference_steps, request.timesteps, request.sigmas)
        guidance = task.guidance(request, self._unet)
        frame = Frame(
            height=height,
            width=width,
            images_per_prompt=request.num_images_per_prompt,
            guided=guidance.guided,
            from_image=task.from_image,
        )
        condition = self.family.encode(prompts, frame)
        images = prompts.count * request.num_images_per_prompt
        seed, generator = make_generator_for(request, images)
        start = task.begin(
            Stage(
                request=request,
                scheduler=scheduler,
                steps=steps,
                first_index=None if shown else self.family.first_index,
                codec=self.codec,
                generator=generator,
                images=images,
                height=height,
                width=width,
                copies=guidance.copies,
                extra_channels=self._extra_channels,
            )
        )
        timesteps = cut_end(scheduler, start.timesteps, request.denoising_end)
        residuals = self.controlnets.begin(
            control,
            guidance,
            condition,
            factor=self.codec.factor,
            copies=request.num_images_per_prompt,
            steps=len(start.timesteps),
            part=start.part,
        )
        feeds = dict(guidance.feeds(condition))
        denoiser = partial(self._predict, guidance, feeds, start.channels, residuals)
        names = request.callback_on_step_end_tensor_inputs
        changeable = {} if shown else feeds  # ControlNets are fed the same prompts, and would not see a change
        return Run(
            steps=denoise(
                scheduler,
                denoiser,
                start.latents,
                generator,
                request.eta,
                timesteps=timesteps,
                after_step=start.after_step,
                step_end=make_step_end(request.callback_on_step_end, names, self, changeable),
            ),
            total=len(timesteps),
            latents=start.latents,
            decode=partial(self._show, standardized=not (shown and task.name in self.family.unstandardized)),
            complete=start.finish,
            output_type=request.output_type,
            seed=None if request.latents is not None and request.seed is None else seed,
            truncated=condition.truncated,
        )

    def scheduler(self, name: str | None = None) -> Scheduler[Any]:
        """A fresh scheduler with the checkpoint's config: its own class, or the one called `name`."""
        own = scheduler_from_config(self.scheduler_config)
        mended = self.family.mend(own.config)
        if name is None:
            return scheduler_from_config(self.scheduler_config, **mended) if mended else own
        return scheduler_class(f"{name.removesuffix('Scheduler')}Scheduler").from_config({**own.config, **mended})

    def decode(self, latents: FloatArray, output_type: str = "pil") -> "list[Image] | FloatArray":
        """The images that latents (B, C, h, w) stand for; see `PipelineOutput.images` for the output types."""
        return self.codec.decode(latents, output_type)

    def _show(
        self, latents: FloatArray, output_type: str, *, standardized: bool
    ) -> "tuple[list[Image] | FloatArray, list[bool] | None]":
        """Decode, and black out what the safety checker flags; None when nothing was checked, as of latents."""
        if self.safety_checker is None or output_type == "latent":
            return self.codec.decode(latents, output_type, standardized=standardized), None
        pixels = np.array(self.codec.decode(latents, "np", standardized=standardized))
        flags = self.safety_checker(to_pil(pixels))
        pixels[flags] = 0
        return (to_pil(pixels) if output_type == "pil" else pixels), flags

    def _check(self, request: Request, height: int, width: int) -> None:
        manifest = self.components.bundle.manifest
        recipe = manifest.recipe if manifest else None
        dims, buckets = (recipe.dims, recipe.buckets) if recipe else ({}, ())
        check_request(request, (height, width), self.codec.factor, dims, buckets)

    def _predict(
        self,
        guidance: Guidance,
        feeds: Feeds,
        channels: FloatArray | None,
        residuals: Residuals,
        latents: FloatArray,
        timestep: FloatArray,
        index: int,
    ) -> FloatArray:
        """One guided call of the UNet: latents (B, C, h, w), timestep (1,) -> (B, C, h, w)."""
        feeds = {**feeds, **residuals(latents, timestep, index, guidance.copies)}
        rows = np.concatenate([latents] * guidance.copies)
        sample = rows if channels is None else np.concatenate([rows, channels], axis=1)
        output = self.components.run("unet", {"sample": sample, "timestep": timestep, **feeds})["out_sample"]
        return guidance.combine(output)
