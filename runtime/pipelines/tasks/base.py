"""What a task is: where latents start, what joins them in the denoiser, what happens after a step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.denoising import AfterStep
from diffoundry.runtime.pipelines.guidance import Guidance, choose_guidance
from diffoundry.runtime.pipelines.latents import LatentCodec
from diffoundry.runtime.pipelines.request import Request
from diffoundry.runtime.random import Generator, randn_tensor
from diffoundry.runtime.schedulers import Scheduler

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Stage", "Start", "Task"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stage:
    """Everything that a task starts with.

    Attributes:
        request: The call, checked.
        scheduler: With its timesteps set; the run's own.
        steps: The number of steps as the caller counts them; a scheduler may make more of them.
        first_index: As `Family.first_index`.
        codec: Images to latents and back.
        generator: One, or one for each image; what is drawn, and in which order, is diffusers'.
        images: B.
        height: Pixels.
        width: Pixels.
        copies: As `Guidance.copies`.
        extra_channels: Channels that the denoiser takes beside those of the latents.
    """

    request: Request
    scheduler: Scheduler[Any]
    steps: int
    first_index: int | None
    codec: LatentCodec
    generator: Generator | Sequence[Generator]
    images: int
    height: int
    width: int
    copies: int
    extra_channels: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the latents: (B, C, h, w)."""
        factor = self.codec.factor
        return self.images, self.codec.channels, self.height // factor, self.width // factor

    def noise(self) -> FloatArray:
        """The caller's `latents`, or fresh noise of `shape`.

        Raises:
            InputError: The caller's are of another shape.
        """
        given = self.request.latents
        if given is None:
            return randn_tensor(self.shape, self.generator).astype(np.float32)
        if given.shape != self.shape:
            raise InputError(f"latents: got shape {given.shape}, expected {self.shape}")
        return given.astype(np.float32)

    def add_noise(self, latents: FloatArray, noise: FloatArray, timestep: Any) -> FloatArray:
        """Latents as they are at a timestep; diffusers: `scheduler.add_noise`.

        Raises:
            InputError: The scheduler cannot.
        """
        noisy: FloatArray = self._adder()(latents, noise, np.repeat(timestep, len(latents)))
        return noisy

    def _adder(self) -> Callable[..., FloatArray]:
        adder: Callable[..., FloatArray] | None = getattr(self.scheduler, "add_noise", None)
        if adder is None:
            raise InputError(
                f"scheduler: got {type(self.scheduler).__name__}, which cannot add noise to an image; choose another"
            )
        return adder


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Start:
    """How the loop begins.

    Attributes:
        latents: float32 (B, C, h, w), in the scheduler's scale.
        timesteps: Those of the scheduler that are run.
        channels: float32 (copies * B, C', h, w), joined to the scaled latents in every call of the denoiser, or None.
        after_step: As `denoising.AfterStep`, or None.
        part: Crops a full-size image to the inpainted region and resizes it to the working size. None if the region is
            the whole image.
        finish: From the decoded PIL images to those that the caller gets, or None.
    """

    latents: FloatArray
    timesteps: npt.NDArray[Any]
    channels: FloatArray | None = None
    after_step: AfterStep | None = None
    part: "Callable[[Image], Image] | None" = None
    finish: "Callable[[list[Image]], list[Image]] | None" = None


class Task:
    """One kind of image making; a frozen dataclass of the arguments that only this kind has.

    Attributes:
        name: As the pipelines' defaults name it.
        label: In a message.
        needs: Arguments that must be given; that they are given is what chooses the task.
        from_image: Whether it begins with an image.
    """

    __slots__ = ()

    name: ClassVar[str]
    label: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    from_image: ClassVar[bool] = False

    @classmethod
    def fits(cls, extra: int, latent: int) -> bool:  # noqa: ARG003
        """Whether a denoiser that takes `extra` channels beside the `latent` ones can do this."""
        return extra == 0

    def check(self, request: Request) -> None:
        """Refuse arguments that do not fit, before any work.

        Raises:
            InputError: Subject, got, expected.
        """

    def size(self, request: Request, default: tuple[int, int], codec: LatentCodec) -> tuple[int, int]:  # noqa: ARG002
        """Height and width of the image in pixels; by default those asked for, or the checkpoint's own.

        Raises:
            InputError: An image that was handed in has another size.
        """
        return request.height or default[0], request.width or default[1]

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels of images that lie over the one handed in; by default of what is generated.

        Args:
            height: Of what is generated.
            width: The same.
        """
        return height, width

    def guidance(self, request: Request, unet: Mapping[str, Any]) -> Guidance:
        """How the denoiser is guided; by default as its config and the request's scale say."""
        return choose_guidance(request.guidance_scale, request.guidance_rescale, unet)

    def begin(self, stage: Stage) -> Start:
        """Draw and encode what the loop begins with.

        Raises:
            InputError: Something handed in does not fit the others.
        """
        raise NotImplementedError
