"""Image tasks for measurements: the same images, by the float engines and by candidates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from diffoundry.calibration.prompts import SeededPrompt
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.images.pixels import preprocess
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.qwen_image_transformer_2d import LAYERS
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.models.roles import CONTROLNET, DENOISER
from diffoundry.runtime.pipelines import open_pipeline
from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = ["ImageTask", "PromptTask", "ReconstructionTask", "ignore_step"]

_TRANSPARENT = 4
"""Channels of an image in layers, of which a call makes `LAYERS`."""

FloatArray = NDArray[np.float32]


def ignore_step(_step: int) -> None:
    """Do nothing at a step."""


class ImageTask(Protocol):
    """Makes images with a bundle's components. Deterministic: the same engines make the same images.

    Attributes:
        stepped: Roles of the components that run in every step of the denoising loop; the others run once an image.
    """

    stepped: ClassVar[tuple[str, ...]]

    def components(self, bundle: Bundle) -> tuple[str, ...]:
        """Names of the components of a bundle that the task runs."""

    def generate(
        self, components: EngineSession, prompts: Sequence[SeededPrompt], at_step: Callable[[int], None] = ignore_step
    ) -> FloatArray:
        """Generate images of all prompts in one batch.

        Args:
            components: Session to use.
            prompts: At least one.
            at_step: Called with the index of a step of the denoising loop before it begins.

        Returns:
            float32 (B, H, W, 3) in 0..1; of layers (B, layers * H, W, 4), below one another.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTask:
    """Generates prompts. An image or embeddings that a call needs are drawn by the seed.

    Attributes:
        steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance.
        height: Pixels; None takes the checkpoint's own size.
        width: Pixels; None takes the checkpoint's own size.
    """

    stepped: ClassVar[tuple[str, ...]] = (DENOISER, CONTROLNET)

    steps: int = 20
    guidance_scale: float = 7.5
    height: int | None = None
    width: int | None = None

    def components(self, bundle: Bundle) -> tuple[str, ...]:
        """See `ImageTask.components`."""
        return open_pipeline(EngineSession(bundle), safety_checker=None).used_components

    def generate(
        self, components: EngineSession, prompts: Sequence[SeededPrompt], at_step: Callable[[int], None] = ignore_step
    ) -> FloatArray:
        """See `ImageTask.generate`."""
        pipeline = open_pipeline(components, safety_checker=None)  # black images would measure nothing
        if not (pipeline.example_inputs or pipeline.example_arrays(*self._size(pipeline))):
            return self._generate(pipeline, prompts, at_step)
        # Each image has an example of its own, and not every pipeline takes several at once.
        return np.concatenate([self._generate(pipeline, [prompt], at_step) for prompt in prompts])

    def _size(self, pipeline: PipelineBase) -> tuple[int, int]:
        height, width = pipeline.default_size
        return self.height or height, self.width or width

    def _generate(
        self, pipeline: PipelineBase, prompts: Sequence[SeededPrompt], at_step: Callable[[int], None]
    ) -> FloatArray:
        at_step(0)
        height, width = self._size(pipeline)
        seeds = [prompt.seed for prompt in prompts]
        drawn = prompts[0].seed if len(prompts) == 1 else None
        counts = {pipeline.image_count_argument: 1 if pipeline.text_encoders else len(prompts)}
        run = pipeline.start(
            [prompt.text for prompt in prompts] if pipeline.text_encoders else None,
            seed=seeds,
            **{
                "output_type": "np",
                **{name: count for name, count in counts.items() if name in pipeline.argument_names},
                **pipeline.measure_arguments(self.steps, self.guidance_scale, height, width, drawn),
                **pipeline.varied_arguments(seeds),
            },
        )
        count = 0  # within a stage: the denoiser of a later one begins with its own first step
        for step in run:
            count = 0 if step.ends_stage else count + 1
            at_step(count)
        images = pipeline.measured_images(run.finish())
        return images.reshape(len(prompts), -1, *images.shape[2:])


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructionTask:
    """Encodes and decodes images, as image-to-image without denoising.

    Attributes:
        images: Prompt to its image, float32 (H, W, 3) in 0..1.
    """

    stepped: ClassVar[tuple[str, ...]] = ()

    images: Mapping[SeededPrompt, FloatArray]

    def components(self, bundle: Bundle) -> tuple[str, ...]:  # noqa: ARG002
        """See `ImageTask.components`."""
        return "vae_encoder", "vae_decoder"

    def generate(
        self, components: EngineSession, prompts: Sequence[SeededPrompt], at_step: Callable[[int], None] = ignore_step
    ) -> FloatArray:
        """See `ImageTask.generate`; the latents are the means of the encoder's distribution."""
        at_step(0)
        images, vae = [self.images[prompt] for prompt in prompts], open_vae(components)
        if images[0].shape[-1] == _TRANSPARENT:
            apart = np.concatenate([image.reshape(LAYERS, -1, *image.shape[1:]) for image in images])
            decoded = vae.decode(vae.mode(np.ascontiguousarray((apart * 2 - 1).transpose(0, 3, 1, 2))))
            pixels: FloatArray = np.clip(decoded * 0.5 + 0.5, 0, 1).transpose(0, 2, 3, 1)
            return pixels.reshape(len(images), -1, *pixels.shape[2:])
        return np.asarray(postprocess(vae.decode(vae.mode(preprocess(images))), "np"), np.float32)
