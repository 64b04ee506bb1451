"""The parts that join a run: ControlNets, T2I-Adapters, image prompts, and edited or watched attention.

A bundle without such networks, called without their arguments, runs through none of this.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import Denoiser, Feeds, FloatArray
from diffoundry.runtime.pipelines.attention.control import (
    AttentionInputs,
    AttentionRun,
    begin_attention,
    check_attention,
    seeds_of,
)
from diffoundry.runtime.pipelines.block_image_prompts import open_image_prompts
from diffoundry.runtime.pipelines.control_residuals import Residuals
from diffoundry.runtime.pipelines.controlnet import ControlNets
from diffoundry.runtime.pipelines.controlnet_inputs import ControlNetInputs
from diffoundry.runtime.pipelines.denoising import AfterStep
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.guidance import Condition, Guidance
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.ip_adapter_inputs import ImagePromptInputs
from diffoundry.runtime.pipelines.t2i_adapter import AdapterFeatures, T2IAdapterInputs, T2IAdapters
from diffoundry.runtime.pipelines.tasks.base import LoopInit, Task, TaskContext

__all__ = ["PART_INPUTS", "PART_NAMES", "PartCall", "PartRun", "Parts"]

PART_INPUTS: tuple[type[Any], ...] = (AttentionInputs, ControlNetInputs, T2IAdapterInputs, ImagePromptInputs)
"""Classes of the arguments for parts."""

PART_NAMES = frozenset(field.name for kind in PART_INPUTS for field in fields(kind))

_ATTENTION, _CONTROL, _ADAPTERS, _PROMPTS = ({field.name for field in fields(kind)} for kind in PART_INPUTS)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PartCall:
    """The arguments of one call for parts, checked.

    Attributes:
        attention: Edits of attention, and heat maps.
        control: None where no image guides ControlNets.
        adapters: None where no image guides T2I-Adapters.
        image_prompts: None without image prompts.
    """

    attention: AttentionInputs
    control: ControlNetInputs | None
    adapters: T2IAdapterInputs | None
    image_prompts: ImagePromptInputs | None

    @property
    def guided_by_image(self) -> bool:
        """True with ControlNets or T2I-Adapters, whose pipeline classes of diffusers differ from the plain ones."""
        return self.control is not None or self.adapters is not None

    @property
    def kinds(self) -> list[Any]:
        """The objects that hold arguments."""
        found = [self.attention, self.control, self.adapters, self.image_prompts]
        return [kind for kind in found if kind is not None]

    def seeds(self, common: CommonInputs, prompts: int) -> Any:
        """Return the seeds of the call; see `attention.control.seeds_of`."""
        return seeds_of(self.attention, common, prompts)


class Parts:
    """The parts of a bundle. Safe to share between threads.

    Attributes:
        controlnets: The ControlNets.
        t2i_adapters: The T2I-Adapters.
        image_prompts: The IP-Adapters.
        names: Names of their components; none in a plain bundle.
    """

    def __init__(self, session: EngineSession, family: Family, vae: AutoencoderKL) -> None:
        """Read the configs; engines are opened when first needed."""
        denoiser = family.denoiser
        self.controlnets = ControlNets(session, lambda: denoiser.residual_inputs, denoiser.component)
        self.t2i_adapters = T2IAdapters(session, denoiser.component)
        self.image_prompts = open_image_prompts(session, denoiser.component)
        self.names = (*self.controlnets.names, *self.t2i_adapters.names, *self.image_prompts.names)
        self._family, self._denoiser, self._vae = family, denoiser, vae

    def check(
        self, inputs: Sequence[Any], given: Collection[str], prompts: Any, copies: int, task: type[Task]
    ) -> PartCall:
        """Check the arguments of a call, before any work.

        Args:
            inputs: One object of each class of `PART_INPUTS`.
            given: Names of the arguments that are not None.
            prompts: The prompts.
            copies: Images for every prompt.
            task: Of the call.

        Raises:
            InputError: One does not fit.
        """
        attention, control, adapters, image_prompts = inputs
        if not _ATTENTION.isdisjoint(given):
            fewer = sorted({"cache", "guidance_interval"} & set(given))
            if fewer:
                raise InputError(f"{fewer[0]}: edits of attention follow every step with all its rows; leave it out")
            encoders = self._family.text_encoders
            check_attention(attention, prompts, self._denoiser, encoders, copies, task.name)
        own = "control_image" in {field.name for field in fields(task)}  # type: ignore[arg-type]  # every task is a dataclass
        others = sorted(_CONTROL & set(given) - {"control_image"}) if own else []
        if others:
            raise InputError(f"{others[0]}: {task.label} has no ControlNets; leave it out")
        if not own and not _CONTROL.isdisjoint(given):
            refused = control.control_image is not None and task.name not in self._family.controlnet_defaults
            self.controlnets.check(control, prompts.count, task.label if refused else None)
        if not _ADAPTERS.isdisjoint(given):
            self.t2i_adapters.check(adapters, prompts.count, task.label if task.name != "text_to_image" else None)
        if not _PROMPTS.isdisjoint(given):
            self.image_prompts.check(image_prompts)
        return PartCall(
            attention=attention,
            control=None if control.control_image is None or own else control,
            adapters=None if adapters.adapter_image is None else adapters,
            image_prompts=image_prompts if image_prompts.given else None,
        )

    def default_size(self, call: PartCall) -> tuple[int, int] | None:
        """Return height and width in pixels that an image of the call sets; None where none does."""
        if call.control is not None:
            return call.control.size(self.controlnets.count(call.control))
        return None if call.adapters is None else self.t2i_adapters.default_size(call.adapters)

    def check_size(self, call: PartCall, size: tuple[int, int], canvas: tuple[int, int]) -> None:
        """Refuse control images of another size.

        Args:
            call: The arguments.
            size: Height and width in pixels that are generated.
            canvas: Those of the image that a generated region lies in.

        Raises:
            InputError: As said.
        """
        if call.control is not None:
            expected = canvas if self.controlnets.crops_image else size
            call.control.check_size(self.controlnets.count(call.control), *expected)

    def extend(self, call: PartCall, condition: Condition, shape: Sequence[int], guidance: Guidance) -> Condition:
        """Add image prompts to the condition of the prompts; `shape` is that of the latents."""
        factor = self._vae.scale_factor
        prepared = self.image_prompts.prepare(call.image_prompts, tuple(shape), guidance.guided, factor)
        return condition if prepared is None else prepared.extend(condition)

    def encode(self, call: PartCall, guidance: Guidance, context: TaskContext) -> list[FloatArray]:
        """Return the latents of control images; see `ControlNets.encode`."""
        return self.controlnets.encode(call.control, guidance, context)

    def begin(
        self,
        call: PartCall,
        guidance: Guidance,
        condition: Condition,
        init: LoopInit,
        prompts: Any,
        context: TaskContext,
        encoded: Sequence[FloatArray] | None,
        total: int,
    ) -> "PartRun":
        """Return the parts of one run.

        Args:
            call: The arguments.
            guidance: Of the denoiser.
            condition: Of the prompts and image prompts.
            init: Start of the loop.
            prompts: The prompts.
            context: Of the task.
            encoded: Result of `encode`.
            total: Steps of the loop.

        Raises:
            InputError: An image does not fit, or a word occurs in no prompt.
        """
        copies, steps = context.inputs.num_images_per_prompt, context.steps
        counted = steps if context.inputs.denoising_end is None else total
        residuals = attention = None
        if self.controlnets.names:
            residuals = self.controlnets.begin(call.control, guidance, condition, context, encoded or (), init)
        features = self.t2i_adapters.begin(
            call.adapters, init.latents.shape, guidance.copies, copies, self._vae.scale_factor, counted
        )
        if call.attention.given is not None:
            tokenizer = self._family.text_encoders[0].tokenizer
            attention = begin_attention(call.attention, prompts, self._denoiser, tokenizer, copies, steps, total)
        return PartRun(residuals, features, attention)


class PartRun:
    """The parts of one run; belongs to one thread."""

    def __init__(
        self, residuals: Residuals | None, features: AdapterFeatures | None, attention: AttentionRun | None
    ) -> None:
        self._residuals, self._features, self._attention = residuals, features, attention

    def feeds(self, latents: FloatArray, timestep: float, index: int, copies: int) -> Feeds:
        """Return further inputs of the denoiser for one step."""
        feeds: Feeds = {}
        if self._residuals is not None:
            feeds = {**feeds, **self._residuals(latents, timestep, index, copies)}
        return feeds if self._features is None else {**feeds, **self._features(index)}

    def denoiser(self, plain: Denoiser) -> Denoiser | AttentionRun:
        """Return what is called in every step: the plain denoiser, or that with edited attention."""
        return self._attention or plain

    def after_step(self, following: AfterStep | None) -> AfterStep | None:
        """Return what changes the latents of a step before they go on."""
        if self._attention is None:
            return following
        changed: AfterStep | None = self._attention.after_step(following)
        return changed

    def results(self) -> Mapping[str, Any]:
        """Return further attributes of the result."""
        return {} if self._attention is None else {"heat_maps": self._attention.heat_maps()}
