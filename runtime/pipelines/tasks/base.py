"""The base of a task: start latents, further inputs of the denoiser, and changes after each step."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import Denoiser, Feeds, FloatArray
from diffoundry.runtime.pipelines.denoising import AfterStep
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.guidance import Guidance, choose_guidance
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.schedule import start_at_index
from diffoundry.runtime.random import Generator, randn_tensor
from diffoundry.runtime.schedulers import Scheduler

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["LoopInit", "Task", "TaskContext", "TextToImage", "choose_task"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TaskContext:
    """The state of a call when its task prepares the loop.

    Attributes:
        inputs: The common arguments, checked.
        scheduler: With its timesteps set; of this run alone.
        steps: The number of steps as the caller counts them; a scheduler may make more.
        begin_index: As `Family.begin_index`.
        noise_scale: Factor of the first noise.
        vae: Images to latents and back.
        generator: One, or one for each image; draws happen in diffusers' order.
        shape: Of the latents, (B, ...).
        size: Height and width in pixels.
        copies: As `Guidance.copies`.
        extra_channels: Channels that the denoiser takes besides those of the latents.
        family: The networks that condition the denoiser.
    """

    inputs: CommonInputs
    scheduler: Scheduler[Any]
    steps: int
    begin_index: int | None
    noise_scale: float
    vae: AutoencoderKL
    generator: Generator | Sequence[Generator]
    shape: tuple[int, ...]
    size: tuple[int, int]
    copies: int
    extra_channels: int
    family: Family

    @property
    def images(self) -> int:
        """Number of images, B."""
        return self.shape[0]

    def noise(self) -> FloatArray:
        """Return the caller's `latents`, or fresh noise of `shape`.

        Raises:
            InputError: The caller's are of another shape.
        """
        latents = self.inputs.latents
        if latents is None:
            return randn_tensor(self.shape, self.generator).astype(np.float32)
        if (latents := self.family.unpack(latents, self.shape)).shape != self.shape:
            raise InputError(f"latents: got shape {latents.shape}, expected {self.shape}")
        return latents.astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoopInit:
    """The start of a denoising loop.

    Attributes:
        latents: float32 (B, ...), in the scheduler's scale.
        timesteps: Those of the scheduler's `model_timesteps` that are run.
        channels: float32 (copies * B, C', h, w), joined to the scaled latents in every call of the denoiser, or None.
        after_step: As `denoising.AfterStep`, or None.
        crop: Crops a full-size image to the inpainted region and resizes it to the working size. None if the region is
            the whole image.
        finish: Converts the decoded PIL images to those that the caller gets, or None.
        feeds: Further inputs of the denoiser, (copies * B, ...).
        decode: As `Run.decode`, or None for that of the pipeline.
        count: Number of images, or None for B.
    """

    latents: FloatArray
    timesteps: npt.NDArray[Any]
    channels: FloatArray | None = None
    after_step: AfterStep | None = None
    crop: "Callable[[Image], Image] | None" = None
    finish: "Callable[[list[Image]], list[Image]] | None" = None
    feeds: Feeds = field(default_factory=dict)
    decode: "Callable[[FloatArray, str], tuple[Any, None]] | None" = None
    count: int | None = None


class Task:
    """One way to generate images; a frozen dataclass of the arguments that only it has.

    Attributes:
        name: As in the families' defaults.
        label: In a message.
        required_args: Arguments that must be given; they choose the task.
        from_image: True if it starts from an image.
        sized_by_image: True if the image alone decides the size that is generated.
        own_size: Height and width by default, whatever the VAE's factor; None for those of the checkpoint.
        upscales: True if the result is larger than the image, by the VAE's factor.
        returns_flags: False if diffusers' class returns no flags of a safety checker, whatever its family does.
        named_only: True if only families that name it in `Family.tasks` can do it.
    """

    __slots__ = ()

    name: ClassVar[str]
    label: ClassVar[str]
    required_args: ClassVar[tuple[str, ...]] = ()
    from_image: ClassVar[bool] = False
    sized_by_image: ClassVar[bool] = False
    own_size: ClassVar[tuple[int, int] | None] = None
    upscales: ClassVar[bool] = False
    named_only: ClassVar[bool] = False
    returns_flags: ClassVar[bool] = True

    @classmethod
    def fits(cls, extra: int, latent: int) -> bool:  # noqa: ARG003
        """Return whether a denoiser that takes `extra` channels besides the `latent` ones can do this."""
        return extra == 0

    def check(self, inputs: CommonInputs, family: Family) -> None:
        """Refuse arguments that do not fit, or not the checkpoint's networks, with an `InputError`, before any work."""

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:  # noqa: ARG002
        """Return height and width in pixels: those of the call, or the default ones."""
        return inputs.height or default[0], inputs.width or default[1]

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width in pixels of images that cover the caller's image; by default the generated size."""
        return height, width

    def guidance(self, inputs: CommonInputs, denoiser: Denoiser) -> Guidance:
        """Return the guidance of the denoiser, by its config and the scale of the call."""
        return choose_guidance(inputs.guidance_scale, inputs.guidance_rescale, denoiser)

    def begin(self, context: TaskContext) -> LoopInit:
        """Draw and encode the start of the loop; raises `InputError` where arguments do not fit each other."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class TextToImage(Task):
    """Noise to an image. diffusers: `StableDiffusionPipeline`, `StableDiffusionXLPipeline`."""

    name: ClassVar[str] = "text_to_image"
    label: ClassVar[str] = "text to image"

    def begin(self, context: TaskContext) -> LoopInit:
        """Scale noise for the scheduler; diffusers: `prepare_latents`."""
        scheduler, latents = context.scheduler, context.noise() * context.noise_scale
        if context.begin_index is None:
            return LoopInit(latents=latents, timesteps=scheduler.model_timesteps)
        return LoopInit(latents=latents, timesteps=start_at_index(scheduler, context.begin_index))


def choose_task(possible: Sequence[type[Task]], given: Collection[str]) -> type[Task]:
    """Return the task of a call, by the names of the arguments that are not None.

    Raises:
        InputError: A required argument is missing for every task of this checkpoint.
    """
    for task in possible:
        if set(task.required_args) <= set(given):
            return task
    least = possible[-1]
    missing = [name for name in least.required_args if name not in given]
    raise InputError(
        f"{missing[0]}: got none, expected {' and '.join(least.required_args)}: {least.label} is what this checkpoint "
        f"does"
    )
