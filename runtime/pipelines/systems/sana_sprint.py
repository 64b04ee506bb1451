"""Sana-Sprint: text to image, and image to image, in one to four steps."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import announced
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.images.pixels import preprocess
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.pipelines.denoising import Step
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.sana_base import SanaBase
from diffoundry.runtime.pipelines.systems.sana_inputs import (
    SanaSprintImageInputs,
    SanaSprintInputs,
)
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch
from diffoundry.runtime.schedulers.algorithms.scm import SCMScheduler

__all__ = ["SanaSprint"]

_STEPS_WITH_INTERMEDIATE = 2


class SanaSprint(SanaBase):
    """diffusers: `SanaSprintPipeline`, `SanaSprintImg2ImgPipeline`.

    Chen et al. 2025, https://arxiv.org/abs/2503.09641. The transformer was trained on x = (1 - s) image + s noise, and
    the scheduler counts angles t: s = sin t / (cos t + sin t).
    """

    Inputs: ClassVar[type[Any]] = SanaSprintInputs
    only_scheduler: ClassVar[str | None] = "SCMScheduler"

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        super().open_networks(session)
        if not self.transformer.embeds_guidance:
            raise BundleError(
                f"bundle {session.bundle.root}: got a transformer without guidance_embeds, expected that of Sana-Sprint"
            )

    def inputs_class(self, given: Sequence[str]) -> type[Any]:
        """See `StagedPipeline`: image to image where a call has an image, or names its strength."""
        return SanaSprintImageInputs if self._starts_from_image or {"image", "strength"} & set(given) else self.Inputs

    @classmethod
    def input_classes(cls) -> Sequence[type[Any]]:
        """See `StagedPipeline`."""
        return SanaSprintInputs, SanaSprintImageInputs

    @property
    def _starts_from_image(self) -> bool:
        """True if the checkpoint's class is for image to image."""
        return "Img2Img" in self.session.bundle.pipeline_class

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `PipelineBase`: an image to start from, where the checkpoint's class takes one."""
        return ("image", "strength") if self._starts_from_image else ()

    @property
    def used_components(self) -> tuple[str, ...]:
        """See `StagedPipeline`: only an image to start from needs the encoder."""
        unused = () if self.example_inputs else ("vae_encoder",)
        return tuple(name for name in self.session.bundle.components if name not in unused)

    def setting_arguments(self, steps: int, guidance_scale: float) -> dict[str, Any]:
        """See `PipelineBase`: diffusers refuses an intermediate timestep of other than two steps."""
        settings = super().setting_arguments(steps, guidance_scale)
        return settings if steps == _STEPS_WITH_INTERMEDIATE else {**settings, "intermediate_timesteps": None}

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler = call.inputs, self.require_scheduler(call.scheduler, SCMScheduler)
        self.check_embeddings(inputs)
        steps = inputs.num_inference_steps
        second = inputs.intermediate_timesteps if steps == _STEPS_WITH_INTERMEDIATE else None
        scheduler.set_timesteps(steps, max_timesteps=inputs.max_timesteps, intermediate_timesteps=second)
        first = 0
        if isinstance(inputs, SanaSprintImageInputs):
            first = int(max(steps - min(steps * inputs.strength, steps), 0))
        scheduler.set_begin_index(first)
        total = steps - first
        return [Stage(name="denoising", total=total, run=lambda _: self._run(call, scheduler, first))]

    def _run(self, call: StagedCall, scheduler: SCMScheduler, first: int) -> Iterator[Step]:
        """Predict the image at every timestep. The last prediction is the result."""
        timesteps, sigma = scheduler.model_timesteps[first:], np.float32(scheduler.options.sigma_data)
        feeds = {
            **self.caption_feeds(call.inputs, guided=False),
            **self.transformer.embed_guidance(call.inputs.guidance_scale),
        }
        sample = self._start(call, float(timesteps[0]), sigma)
        announced(np.array([_share(float(angle)) for angle in timesteps], np.float32))
        for index, timestep in enumerate(timesteps):
            if call.stops():
                return
            output = self._predict(sample / sigma, float(timestep), feeds) * sigma
            result = scheduler.step(output, timestep, sample, generator=call.generator)
            sample = call.finish_step(index, float(timestep), result.prev_sample)
            assert result.pred_original_sample is not None, "SCMScheduler predicts it in every step"
            yield Step(
                index=index, total=len(timesteps), timestep=float(timestep), latents=sample,
                result=result.pred_original_sample / sigma,
            )  # fmt: skip

    def _predict(self, sample: FloatArray, angle: float, feeds: Feeds) -> FloatArray:
        """Return the velocity of the scheduler at an angle t, of the transformer's at s."""
        share = _share(angle)
        scale = np.sqrt(share**2 + (1 - share) ** 2)
        rows = sample * scale
        output = self.transformer(rows, float(share), feeds)
        velocity: FloatArray = ((1 - 2 * share) * rows + (1 - 2 * share + 2 * share**2) * output) / scale
        return velocity

    def _start(self, call: StagedCall, angle: float, sigma: np.float32) -> FloatArray:
        """Return noise, or the noisy latents of an image.

        diffusers: `SanaSprintImg2ImgPipeline.prepare_latents`.
        """
        inputs = call.inputs
        shape = self.transformer.latent_shape(call.images, *call.size, self.vae)
        if not isinstance(inputs, SanaSprintImageInputs):
            return call.start_noise(shape, inputs.latents) * sigma
        if inputs.latents is not None:
            return call.start_noise(shape, inputs.latents)
        assert inputs.image is not None, "checked"
        latents = self.vae.normalize(self.vae.mode(preprocess(inputs.image, *call.size, factor=1))) * sigma
        rows = fill_batch(latents, call.images)
        noise = call.randn(shape) * sigma
        start: FloatArray = np.float32(math.cos(angle)) * rows + np.float32(math.sin(angle)) * noise
        return start


def _share(angle: float) -> np.float32:
    """Return s of an angle t."""
    sine, cosine = np.float32(math.sin(angle)), np.float32(math.cos(angle))
    share: np.float32 = sine / (cosine + sine)
    return share
