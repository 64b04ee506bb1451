"""Upscaling of latents to twice their size, such as sd-x2-latent-upscaler."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_embeddings, check_number
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance, Condition, Guidance, Unguided
from diffoundry.runtime.pipelines.inputs import PromptInputs
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.tasks.source_images import image_size, latents_of, read_image
from diffoundry.runtime.schedulers.algorithms.euler_discrete import EulerDiscreteScheduler

__all__ = ["LatentUpscaler", "LatentUpscalingInputs"]

_FACTOR = 2

_LEVEL_WIDTH = 64
"""Sines, and likewise cosines, of the noise level of the image: a level of 0, so that they are zeros and ones."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LatentUpscalingInputs(PromptInputs):
    """The arguments of diffusers' `StableDiffusionLatentUpscalePipeline`.

    Attributes:
        image: The image to enlarge, or one for each prompt, whose sides are multiples of the VAE's scale factor. Or its
            latents (B, C, h, w), as output_type "latent" of a Stable Diffusion pipeline gives them.
        num_inference_steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance, and 0 also without the prompt.
        latents: Start noise, float32 (B, C, 2 h, 2 w), instead of drawing it.
        pooled_prompt_embeds: float32 (B, P), with `prompt_embeds`.
        negative_pooled_prompt_embeds: float32 (B, P), with `negative_prompt_embeds`.
    """

    image: "ImageInput | None" = None
    num_inference_steps: int = 75
    guidance_scale: float = 9.0
    latents: FloatArray | None = None
    pooled_prompt_embeds: FloatArray | None = None
    negative_pooled_prompt_embeds: FloatArray | None = None

    def check(self) -> None:
        """Refuse a missing image, half an embedding, and a number of images other than that of the prompts.

        Raises:
            InputError: As said.
        """
        PromptInputs.check(self)
        check_number("guidance_scale", self.guidance_scale, 0, np.inf)
        if self.image is None:
            raise InputError("image: got none, expected the image to enlarge, or its latents")
        for states, pooled in (
            ("prompt_embeds", "pooled_prompt_embeds"),
            ("negative_prompt_embeds", "negative_pooled_prompt_embeds"),
        ):
            check_embeddings(pooled, getattr(self, pooled), self.count, 2)
            if (getattr(self, states) is None) != (getattr(self, pooled) is None):
                raise InputError(f"{states} and {pooled}: got one of them, expected both or none")


class LatentUpscaler(StagedPipeline):
    """diffusers: `StableDiffusionLatentUpscalePipeline`.

    The network is preconditioned. Karras et al. 2022, table 1, https://arxiv.org/abs/2206.00364.

    Attributes:
        vae: Images to latents and back.
        unet: The denoiser.
    """

    Inputs: ClassVar[type[Any]] = LatentUpscalingInputs
    label: ClassVar[str] = "enlarged images"
    only_scheduler: ClassVar[str | None] = EulerDiscreteScheduler.__name__

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.unet = self.denoiser = UNet2DConditionModel(session)
        self.vae = open_vae(session)
        self._encoder = CLIPTextModel(session)
        self.text_encoders = (self._encoder,)

    @property
    def scale_factor(self) -> int:
        """Pixels to a side of a latent."""
        return self.vae.scale_factor

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `PipelineBase`."""
        return ("image",)

    @property
    def example_scale(self) -> int:
        """See `PipelineBase`."""
        return _FACTOR

    def size_multiple(self) -> int:
        """See `StagedPipeline`."""
        return _FACTOR * self.vae.scale_factor

    def size(self, inputs: LatentUpscalingInputs) -> tuple[int, int]:
        """See `StagedPipeline`: twice that of the image.

        Raises:
            InputError: The sides of the image are no multiples of the VAE's factor, or the engines take no such size.
        """
        latents, factor = latents_of(inputs.image, self.vae.latent_channels), self.vae.scale_factor
        if latents is not None:
            height, width = latents.shape[2] * factor, latents.shape[3] * factor
        else:
            assert inputs.image is not None
            height, width = image_size(inputs.image)
        if height % factor or width % factor:
            raise InputError(f"image: got {width} x {height} pixels, expected multiples of {factor}; resize or crop it")
        height, width = height * _FACTOR, width * _FACTOR
        manifest = self.session.bundle.manifest
        dims = manifest.recipe.dims if manifest else {}
        refusals = [dims[name].refusal(side) for name, side in (("height", height), ("width", width)) if name in dims]
        refusal = next(filter(None, refusals), None)
        if refusal:
            raise InputError(
                f"image: got {width // _FACTOR} x {height // _FACTOR} pixels, enlarged {width} x {height}, {refusal}: "
                f"the sizes that this bundle makes; resize or crop it"
            )
        return height, width

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler = call.inputs, call.scheduler
        if not isinstance(scheduler, EulerDiscreteScheduler):
            raise InputError(
                f"scheduler: got {type(scheduler).__name__}, expected EulerDiscreteScheduler: this pipeline computes "
                f"with its sigmas; leave it out"
            )
        scheduler.set_timesteps(inputs.num_inference_steps)
        guided = inputs.guidance_scale > 1
        guidance: Guidance = ClassifierFreeGuidance(scale=inputs.guidance_scale) if guided else Unguided()

        def run(_: FloatArray | None) -> Any:
            feeds = guidance.feeds(self._encode(inputs, guided=guided))
            image = self._image(call)
            channels = np.concatenate([image.repeat(_FACTOR, axis=2).repeat(_FACTOR, axis=3)] * guidance.copies)
            shape = call.images, self.vae.latent_channels, image.shape[2] * _FACTOR, image.shape[3] * _FACTOR
            noise = call.start_noise(shape, inputs.latents) * np.float32(scheduler.init_noise_sigma)

            def predict(latents: FloatArray, timestep: float, index: int) -> FloatArray:
                rows = np.concatenate([latents] * guidance.copies)
                return guidance.combine(self._predict(scheduler, rows, channels, timestep, index, feeds))

            return call.denoise(predict, noise, scale_input=False)

        return [Stage(name="denoising", total=len(scheduler.model_timesteps), run=run)]

    def _encode(self, inputs: LatentUpscalingInputs, *, guided: bool) -> Condition:
        """Return hidden states before the final norm, and the pooled vectors behind the noise level."""
        texts, negatives = inputs.texts(), inputs.negative_texts(guided=guided)
        if inputs.guidance_scale == 0:
            texts = [""] * len(texts)
        states, pooled, truncated = self._run_encoder(negatives + texts)
        rows = len(negatives)
        conditional = self._feeds(
            states[rows:] if inputs.prompt_embeds is None else inputs.prompt_embeds,
            pooled[rows:] if inputs.pooled_prompt_embeds is None else inputs.pooled_prompt_embeds,
        )
        unconditional = self._feeds(
            states[:rows] if inputs.negative_prompt_embeds is None else inputs.negative_prompt_embeds,
            pooled[:rows] if inputs.negative_pooled_prompt_embeds is None else inputs.negative_pooled_prompt_embeds,
        )
        return Condition(
            conditional=conditional, unconditional=unconditional if guided else None, truncated=truncated[rows:]
        )

    def _run_encoder(self, texts: list[str]) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
        if not texts:
            return np.zeros((0, 0, 0), np.float32), np.zeros((0, 0), np.float32), ()
        encoder = self._encoder
        encoded = encoder.encode(encoder.tokenize(texts, weighting=False, long=False), 1)
        return encoded.outputs[f"hidden_states.{encoder.layers}"], encoded.outputs["pooler_output"], encoded.truncated

    @staticmethod
    def _feeds(states: FloatArray, pooled: FloatArray) -> Feeds:
        level = np.repeat(np.asarray([[1.0, 0.0]], np.float32), _LEVEL_WIDTH, axis=1)
        condition = np.concatenate([np.repeat(level, len(pooled), axis=0), pooled.astype(np.float32)], axis=1)
        return {"encoder_hidden_states": states.astype(np.float32), "timestep_cond": condition}

    def _image(self, call: StagedCall) -> FloatArray:
        """Return the latents of the image in the scheduler's scale, a row for each prompt.

        Raises:
            InputError: There are more or fewer of them than prompts.
        """
        image = call.inputs.image
        latents = latents_of(image, self.vae.latent_channels)
        if latents is None:
            latents = self.vae.normalize(self.vae.sample(read_image(image), call.generator))
        if len(latents) != call.images:
            raise InputError(
                f"image: got {len(latents)} for {call.images} prompts, expected one for each; pass a list of images"
            )
        return latents

    def _predict(
        self,
        scheduler: EulerDiscreteScheduler,
        rows: FloatArray,
        channels: FloatArray,
        timestep: float,
        index: int,
        feeds: Feeds,
    ) -> FloatArray:
        """Call the network at a level of noise, and combine its output with its input; the last channel is unused."""
        sigma = np.float32(scheduler.sigmas[index])
        scaled = np.concatenate([scheduler.scale_model_input(rows, timestep), channels], axis=1)
        output = self.unet(scaled, float(np.log(sigma) * np.float32(0.25)), feeds)[:, :-1]
        share = np.float32(1) / (sigma**2 + np.float32(1))
        scale = sigma / np.sqrt(sigma**2 + np.float32(1))
        prediction: FloatArray = share * rows + scale * output
        return prediction

    def truncated(self, inputs: LatentUpscalingInputs) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        encoder = self._encoder
        return tuple(prompt.cut for prompt in encoder.tokenize(inputs.texts(), weighting=False, long=False))

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`."""
        if output_type == "latent":
            return latents
        return postprocess(self.vae.decode(self.vae.denormalize(latents)), output_type)
