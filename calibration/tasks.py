"""What a pipeline is asked to do while it is measured: the same images, for the float engines and for others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.images.pixels import postprocess, preprocess
from diffoundry.runtime.pipelines import open_pipeline
from diffoundry.runtime.pipelines.latents import LatentCodec
from diffoundry.runtime.pipelines.stand_in import size_arguments

__all__ = ["Case", "Generation", "Reconstruction", "Task", "ignore_step"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One image.

    Attributes:
        prompt: The prompt.
        seed: Of torch's CPU generator.
    """

    prompt: str
    seed: int


def ignore_step(_step: int) -> None:
    """For whoever does not want to know."""


class Task(Protocol):
    """Makes images with a bundle's components. Deterministic: the same engines make the same images.

    Attributes:
        stepped: Components that run once a step of the denoising loop; the others run once an image.
    """

    stepped: ClassVar[tuple[str, ...]]

    def components(self, bundle: Bundle) -> tuple[str, ...]:
        """Which components of a bundle it runs."""

    def generate(
        self, components: EngineSession, cases: Sequence[Case], at_step: Callable[[int], None] = ignore_step
    ) -> FloatArray:
        """Images of all cases in one batch.

        Args:
            components: The engines to use.
            cases: At least one.
            at_step: Called with the index of a step of the denoising loop before it begins.

        Returns:
            float32 (B, H, W, 3) in 0..1.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """Generates prompts, from a drawn image where that is the checkpoint's usual task.

    Attributes:
        steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance.
        height: Pixels; None takes the checkpoint's own size.
        width: Pixels; None takes the checkpoint's own size.
    """

    stepped: ClassVar[tuple[str, ...]] = ("unet",)

    steps: int = 20
    guidance_scale: float = 7.5
    height: int | None = None
    width: int | None = None

    def components(self, bundle: Bundle) -> tuple[str, ...]:
        """See `Task.components`."""
        return open_pipeline(EngineSession(bundle), safety_checker=None).used_components

    def generate(
        self, components: EngineSession, cases: Sequence[Case], at_step: Callable[[int], None] = ignore_step
    ) -> FloatArray:
        """See `Task.generate`."""
        at_step(0)
        pipeline = open_pipeline(components, safety_checker=None)  # black images measure nothing
        default = pipeline.default_size
        height, width = self.height or default[0], self.width or default[1]
        run = pipeline.start(
            [case.prompt for case in cases] if pipeline.encoders else None,
            num_images_per_prompt=1 if pipeline.encoders else len(cases),
            seed=[case.seed for case in cases],
            num_inference_steps=self.steps,
            guidance_scale=self.guidance_scale,
            output_type="np",
            **size_arguments(pipeline.stand_ins, height, width),
        )
        for step in run:
            at_step(step.index + 1)
        return np.asarray(run.finish().images, np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstruction:
    """Encodes images and decodes them again, as image-to-image does without its denoising.

    Attributes:
        images: Case to its image, float32 (H, W, 3) in 0..1.
    """

    stepped: ClassVar[tuple[str, ...]] = ()

    images: Mapping[Case, FloatArray]

    def components(self, bundle: Bundle) -> tuple[str, ...]:  # noqa: ARG002
        """See `Task.components`."""
        return "vae_encoder", "vae_decoder"

    def generate(
        self, components: EngineSession, cases: Sequence[Case], at_step: Callable[[int], None] = ignore_step
    ) -> FloatArray:
        """See `Task.generate`; the latents are the means of what the encoder says."""
        at_step(0)
        pixels = preprocess([self.images[case] for case in cases])
        latents = LatentCodec(components, standardizes=False).mode(pixels)
        decoded = components.run("vae_decoder", {"latent_sample": latents})["sample"]
        return np.asarray(postprocess(decoded, "np"), np.float32)
