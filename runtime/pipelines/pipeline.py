"""Runs a diffusion pipeline. The family encodes prompts; the task prepares the starting latents."""

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from diffoundry.runtime.adapters.adapter_set import AdapterSet
from diffoundry.runtime.adapters.loras import Loras
from diffoundry.runtime.adapters.textual_inversion import TextualInversions
from diffoundry.runtime.checks.image_size import check_size
from diffoundry.runtime.checks.memory_estimate import check_call_memory
from diffoundry.runtime.checks.sort_arguments import sort_arguments
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.images.postprocess import finish_images, postprocess, to_pil
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.safety_checker import StableDiffusionSafetyChecker
from diffoundry.runtime.pipelines.approximations.approximate import approximate
from diffoundry.runtime.pipelines.call_arguments import call_signature, has_signature, start_signature
from diffoundry.runtime.pipelines.callback import make_step_end
from diffoundry.runtime.pipelines.denoising import Predict, StopSignal, denoise
from diffoundry.runtime.pipelines.families.base import EncodeOptions, Family
from diffoundry.runtime.pipelines.guidance import Guidance
from diffoundry.runtime.pipelines.habits import argument_advice
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.interface import PipelineInterface
from diffoundry.runtime.pipelines.output import PipelineOutput
from diffoundry.runtime.pipelines.parts import PART_INPUTS, PART_NAMES, PartCall, PartRun, Parts
from diffoundry.runtime.pipelines.run import Run
from diffoundry.runtime.pipelines.step_guidance import StepGuidance
from diffoundry.runtime.pipelines.tasks import other_task, possible_tasks
from diffoundry.runtime.pipelines.tasks.base import Task, TaskContext, choose_task
from diffoundry.runtime.pipelines.tasks.schedule import cut_end
from diffoundry.runtime.random.seeds import make_generators
from diffoundry.runtime.schedulers import Scheduler, make_scheduler
from diffoundry.runtime.schedulers.plan_run import plan_run

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DiffusionPipeline", "PipelineOutput", "Run"]


class _Call(NamedTuple):
    """The arguments of one call, checked; `parts` is None where none joins, `size` is (height, width)."""

    common: CommonInputs
    prompts: Any
    parts: PartCall | None
    task: Task
    images: int
    size: tuple[int, int]

    @property
    def guided_by_image(self) -> bool:
        """As `PartCall.guided_by_image`."""
        return self.parts is not None and self.parts.guided_by_image

    def arguments(self) -> dict[str, Any]:
        """Return every argument that has a value, with the size that is generated."""
        kinds = [self.common, self.prompts, self.task, *([] if self.parts is None else self.parts.kinds)]
        values = {field.name: getattr(kind, field.name) for kind in kinds for field in fields(kind)}
        values |= dict(zip(("height", "width"), self.size, strict=True))
        return {name: value for name, value in values.items() if value is not None}


class DiffusionPipeline(PipelineInterface):
    """The components of a bundle, ready to generate. Several threads may share one: every call has its own scheduler.

    Attributes:
        session: The engines.
        family: The networks that make a condition of prompts.
        denoiser: The network that is called in every step.
        vae: Images to latents and back; `vae.enable_tiling()`, `vae.enable_slicing()`.
        loras: The LoRAs that are loaded; `loras.load("style.safetensors", scale=0.8)`.
        embeddings: The textual inversions that are loaded; `embeddings.load("cat.safetensors", token="<cat>")`.
        parts: The ControlNets, T2I-Adapters and IP-Adapters.
        safety_checker, watermarker: Blacken what is flagged, and mark PIL images. Each may be set to None at any time.
    """

    def __init__(
        self, session: EngineSession, family: Family, safety_checker: StableDiffusionSafetyChecker | None = None
    ) -> None:
        """Read the configs; engines are opened when first needed.

        Raises:
            BundleError: The bundle lacks a component or a config, or its denoiser takes inputs that no task feeds.
            ConfigError: The scheduler is unknown, or has an option that is not honoured.
        """
        super().__init__(session)
        bundle, adapters = session.bundle, AdapterSet(session)
        self.family, self.denoiser = family, family.denoiser
        self.vae = family.open_vae(session)
        self.loras = Loras(adapters)
        self.embeddings = TextualInversions(adapters, family.text_encoders)
        self.parts = Parts(session, family, self.vae)
        self.safety_checker = safety_checker
        self.watermarker, self.transparent = family.watermarker, family.transparent
        latent = self.vae.latent_channels
        self._extra_channels = self.denoiser.in_channels - latent
        taken = [field.name for field in fields(family.Inputs)]
        tasks = possible_tasks(self._extra_channels, latent, family.required_args, taken, family.tasks)
        if not tasks:
            raise BundleError(
                f"bundle {bundle.root}: got a denoiser of {self.denoiser.in_channels} channels over latents of "
                f"{latent}, which no task of this version feeds; upgrade diffoundry"
            )
        self._set_up(tasks)

    @has_signature(call_signature)
    def __call__(self, prompt: Any = None, *, return_dict: bool = True, **arguments: Any) -> Any:
        """Generate.

        Args:
            prompt: One prompt or several; None where `prompt_embeds` are given.
            return_dict: False returns the tuple that diffusers' pipeline class returns, images first.
            arguments: Fields of `CommonInputs`, of the family's `Inputs`, of the task and of `PART_INPUTS`.

        Raises:
            InputError: An argument does not fit; the message names it.
            EngineError: An engine cannot be opened, or failed.
        """
        result = self.start(prompt, **arguments).finish()
        if return_dict:
            return result
        flags = self.family.returns_flags and self.default_task.returns_flags
        return (result.images, result.nsfw_content_detected) if flags else (result.images,)

    @has_signature(start_signature)
    def start(self, prompt: Any = None, **arguments: Any) -> Any:
        """Prepare a run: iterate over the result for steps and previews, then `finish` it.

        Raises:
            InputError: As `__call__`.
        """
        call = self._parse({"prompt": prompt, **arguments})
        common, task = call.common, call.task
        shape = self.denoiser.latent_shape(call.images, *call.size, self.vae)
        scheduler, steps = self._plan(call, shape)
        choose, denoiser = self.family.choose_guidance, self.denoiser
        guidance = choose(common, call.prompts, denoiser) if choose else task.guidance(common, denoiser)
        needs = EncodeOptions(*call.size, common.num_images_per_prompt, guidance.guided, task.from_image, task, common)
        condition = self.family.encode(call.prompts, needs)
        if call.parts is not None:
            condition = self.parts.extend(call.parts, condition, shape, guidance)
        seeds = common.seed if call.parts is None else call.parts.seeds(common, call.prompts.count)
        seed, generator = make_generators(seeds, common.generator, call.images, has_latents=common.latents is not None)
        scaled = self.family.scales_latents
        context = TaskContext(
            inputs=common,
            scheduler=scheduler,
            steps=steps,
            begin_index=None if call.guided_by_image else self.family.begin_index,
            noise_scale=float(scheduler.init_noise_sigma) if scaled else 1.0,
            vae=self.vae,
            generator=generator,
            shape=shape,
            size=call.size,
            copies=guidance.copies,
            extra_channels=self._extra_channels,
            family=self.family,
        )
        seen = None if call.parts is None else self.parts.encode(call.parts, guidance, context)
        init, signal = task.begin(context), StopSignal()
        with self._signals_lock:
            self._signals.add(signal)
        end = common.denoising_end
        timesteps = init.timesteps if end is None else cut_end(scheduler, init.timesteps, end)
        feeds = {**guidance.feeds(condition), **init.feeds}  # ControlNets do not see what a callback changes there
        callback, names = common.callback_on_step_end, common.callback_on_step_end_tensor_inputs
        controlled, adapted = (call.parts and call.parts.control), (call.parts and call.parts.adapters)
        changeable, tensors = {} if controlled else feeds, self.family.callback_tensors
        step_end = callback and make_step_end(callback, names, self, changeable, tensors, signal)
        parts, after_step = None, init.after_step
        if call.parts is not None:
            own = guidance, condition, init, call.prompts, context
            parts = self.parts.begin(call.parts, *own, seen, len(timesteps))
            after_step = parts.after_step(init.after_step)
        predict: Predict = partial(self._predict, guidance, feeds, init.channels, parts)
        if common.guidance_interval or common.cache:
            plan = common.guidance_interval, common.cache, guidance, scheduler, len(timesteps), self.session
            predict = approximate(lambda one: partial(self._predict, one, feeds, init.channels, parts), *plan)
        skips = controlled and task.name in self.family.skip_normalization_tasks
        loop = init.latents, timesteps, generator, signal, common.eta, after_step, step_end, scaled
        return Run(
            steps=denoise(scheduler, predict, *loop, self.family.ends_denoised),
            total=len(timesteps),
            count=init.count or call.images,
            latents=init.latents,
            decode=init.decode
            or partial(self._show, statistics=not (skips or adapted)),  # as `StableDiffusionXLAdapterPipeline`
            finish_images=init.finish,
            output_type=common.output_type,
            seed=seed,
            truncated=condition.truncated,
            scheduler=scheduler,
            arguments=call.arguments(),
            signal=signal,
            more_results=None if parts is None else parts.results,
        )

    def _parse(self, arguments: Mapping[str, Any]) -> _Call:
        """Sort the arguments of a call and check them."""
        given = [name for name, value in arguments.items() if value is not None]
        kind = choose_task(self._tasks, given)
        controlled, adapted = "control_image" in given, "adapter_image" in given
        defaults = self.family.controlnet_defaults if controlled else self.family.defaults
        more = self.family.t2i_adapter_defaults if adapted else {}
        common, prompts, task, *inputs = sort_arguments(
            {**defaults.get(kind.name, {}), **more, **arguments},
            (CommonInputs, self.family.Inputs, kind, *PART_INPUTS),
            lambda name: (
                other_task(name, kind, self._tasks, restricted=self.family.tasks is not None) or argument_advice(name)
            ),
        )
        common.check()
        prompts.check()
        task.check(common, self.family)
        joins = self.parts.names or not PART_NAMES.isdisjoint(given)
        copies = common.num_images_per_prompt
        parts = self.parts.check(inputs, given, prompts, copies, kind) if joins else None
        default = None if parts is None else self.parts.default_size(parts)
        if common.height and common.width:
            default = common.height, common.width
        if default is None and not kind.sized_by_image:
            default = self._default_size(kind, controlnet=controlled)
        size, choose = task.size(common, default or (0, 0), self.vae), self.family.choose_size
        size = size if choose is None else choose(size, prompts)
        manifest = self.session.bundle.manifest
        check_size(size, self.vae.scale_factor, self.denoiser.patch_size, manifest.recipe if manifest else None)
        if parts is not None:
            self.parts.check_size(parts, size, task.canvas(*size))
        if self.vae.tiles and (kind.from_image or common.output_type != "latent"):
            self.vae.check_tiles(*size)
        images, decodes = prompts.count * copies, common.output_type != "latent"
        check_call_memory(self.session, self.denoiser, self.vae, (images, *size), prompts.count, decodes=decodes)
        return _Call(common, prompts, parts, task, images, size)

    def _plan(self, call: _Call, shape: tuple[int, ...]) -> tuple[Scheduler[Any], int]:
        """Return a scheduler with its timesteps set, and the number of steps as the caller counts them."""
        common, channels, flow = call.common, self.denoiser.out_channels, not self.family.scales_latents
        own = self._own_scheduler or self._schedulers[call.task.name, call.guided_by_image]
        scheduler = own.copy() if common.scheduler is None else make_scheduler(common.scheduler, own.config, flow=flow)
        scheduler.check_loop(channels=shape[1], output_channels=channels, eta=common.eta, mu=common.mu)
        scheduler.check_latents(scaled=self.family.scales_latents)
        if self.family.plans_timesteps:
            return scheduler, self.family.set_timesteps(scheduler, common, call.prompts, call.task)
        plan, tokens = (common.timesteps, common.sigmas, common.mu), self.denoiser.image_tokens(shape)
        more = tokens, self.family.even_sigmas, self.family.compute_mu
        return scheduler, plan_run(scheduler, common.num_inference_steps, *plan, *more)

    def _predict(
        self,
        guidance: Guidance,
        feeds: Feeds,
        channels: FloatArray | None,
        parts: PartRun | None,
        latents: FloatArray,
        timestep: float,
        index: int,
    ) -> FloatArray:
        """Call the denoiser once, with guidance: scaled latents (B, ...) -> (B, ...)."""
        if parts is not None:
            feeds = {**feeds, **parts.feeds(latents, timestep, index, guidance.copies)}
        rows = np.concatenate([latents] * guidance.copies)
        sample = rows if channels is None else np.concatenate([rows, channels[-len(rows) :]], axis=1)  # prompts: last
        denoiser = self.denoiser if parts is None else parts.denoiser(self.denoiser)
        if isinstance(guidance, StepGuidance):
            return guidance.predict(denoiser, sample, timestep, feeds, index)
        return guidance.combine(denoiser(sample, timestep, feeds))

    def decode(
        self, latents: FloatArray, output_type: str = "pil", *, statistics: bool = True
    ) -> "list[Image] | FloatArray":
        """Return the images of latents (B, ...) without the safety checker; see `CommonInputs.output_type`."""
        if output_type == "latent":
            return self.vae.denormalize(latents) if self.family.returns_own_latents else latents
        sample = self.vae.decode(self.vae.denormalize(latents, statistics=statistics))
        return postprocess(sample, output_type, 4 if self.transparent else 3)

    def _show(self, latents: FloatArray, output_type: str, *, statistics: bool) -> tuple[Any, list[bool] | None]:
        """Decode, blacken what the safety checker flags, and draw the watermark; flags are None without a check."""
        checker = None if output_type == "latent" else self.safety_checker
        images: Any = self.decode(latents, output_type if checker is None else "np", statistics=statistics)
        flags = None if checker is None else checker(to_pil(images))
        return finish_images(images, flags, self.watermarker, output_type), flags
