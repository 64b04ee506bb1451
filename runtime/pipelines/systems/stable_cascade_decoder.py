"""The decoder of Stable Cascade: the prior's small latents and the pooled prompt to images."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.postprocess import to_pil
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.paella_vq_model import PaellaVQModel
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.stable_cascade_unet import StableCascadeUNet
from diffoundry.runtime.pipelines.denoising import Predict
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.stable_cascade_inputs import StableCascadeDecoderInputs, read_features
from diffoundry.runtime.pipelines.systems.stable_cascade_prior import TrainedSize, guide
from diffoundry.runtime.schedulers.algorithms.ddpm_wuerstchen import DDPMWuerstchenScheduler
from diffoundry.runtime.schedulers.arithmetic.resampling import resample

__all__ = ["StableCascadeDecoder"]


class StableCascadeDecoder(TrainedSize):
    """diffusers: `StableCascadeDecoderPipeline`.

    Pernias et al. 2023, https://arxiv.org/abs/2306.00637.

    Attributes:
        unet: The denoiser.
        vqgan: Latents to images.
    """

    Inputs: ClassVar[type[Any]] = StableCascadeDecoderInputs
    label: ClassVar[str] = "images of embeddings"
    only_scheduler: ClassVar[str | None] = DDPMWuerstchenScheduler.__name__

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.unet = self.denoiser = StableCascadeUNet(session, "decoder")
        self.vqgan = PaellaVQModel(session)
        self._text_encoder = CLIPTextModel(session)
        self.text_encoders = (self._text_encoder,)

    @property
    def scale_factor(self) -> int:
        """Pixels to a side of a latent."""
        return self.vqgan.factor

    def images(self, inputs: StableCascadeDecoderInputs) -> int:
        """See `StagedPipeline`."""
        return len(read_features(inputs.image_embeddings)) * inputs.num_images_per_prompt

    def size(self, inputs: StableCascadeDecoderInputs) -> tuple[int, int]:
        """See `StagedPipeline`: it follows from that of the embeddings.

        Raises:
            InputError: The latents cannot be cut into patches.
        """
        features = read_features(inputs.image_embeddings)
        height, width = (self.latent_side(side) for side in features.shape[2:])
        patch = self.unet.patch_size
        if height % patch or width % patch or not height * width:
            raise InputError(
                f"image_embeddings: got {features.shape[3]} x {features.shape[2]}, of which {width} x {height} latents "
                f"would be made, expected multiples of {patch}; choose another height or width of the prior"
            )
        return height * self.scale_factor, width * self.scale_factor

    def truncated(self, inputs: StableCascadeDecoderInputs) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        if not inputs.texts:
            return ()
        return tuple(prompt.cut for prompt in self._text_encoder.tokenize(inputs.texts, weighting=False, long=False))

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs = call.inputs
        features = read_features(inputs.image_embeddings)
        if features.shape[1] != self.unet.effnet_channels:
            raise InputError(
                f"image_embeddings: got {features.shape[1]} channels, expected {self.unet.effnet_channels}; use the "
                f"prior of this decoder"
            )
        scheduler = self.require_scheduler(call.scheduler, DDPMWuerstchenScheduler)
        scheduler.set_timesteps(inputs.num_inference_steps)

        def run(_: FloatArray | None) -> Any:
            predict = self._predict(call, features)
            shape = call.images, self.unet.in_channels, *(side // self.scale_factor for side in call.size)
            latents = call.start_noise(shape, inputs.latents) * np.float32(scheduler.init_noise_sigma)
            return call.denoise(predict, latents, scale_input=False)

        return [Stage(name="decoder", total=len(scheduler.model_timesteps), run=run)]

    def _predict(self, call: StagedCall, features: FloatArray) -> Predict:
        scale, unet = call.inputs.guidance_scale, self.unet
        feeds = self._feeds(call, features)

        def predict(latents: FloatArray, timestep: float, _index: int) -> FloatArray:
            if scale <= 1:
                return unet(latents, timestep, feeds)
            return guide(unet(np.concatenate([latents] * 2), timestep, feeds), scale)

        return predict

    def _feeds(self, call: StagedCall, features: FloatArray) -> Feeds:
        """Return the inputs of the network besides the sample, the unconditional rows last where there are any."""
        patches = tuple(side // self.scale_factor // self.unet.patch_size for side in call.size)
        rows = np.repeat(features, call.inputs.num_images_per_prompt, axis=0)
        effnet, pooled = resample(rows, patches, "bilinear", align_corners=True), [self._pooled(call, "")]
        if call.inputs.guidance_scale > 1:
            effnet = np.concatenate([effnet, np.zeros_like(effnet)])
            pooled.append(self._pooled(call, "negative_"))
        return {"effnet": effnet, "clip_text_pooled": np.concatenate(pooled)}

    def _pooled(self, call: StagedCall, prefix: str) -> FloatArray:
        """Return the pooled texts, or negative texts, with a row for each image."""
        inputs, encoder = call.inputs, self._text_encoder
        pooled = getattr(inputs, f"{prefix}prompt_embeds_pooled")
        if pooled is None:
            texts = inputs.negatives if prefix else inputs.texts
            encoded = encoder.encode(encoder.tokenize(texts, weighting=False, long=False), 1)
            pooled = encoded.outputs["text_embeds"][:, None]
        return np.repeat(pooled, call.images // len(pooled), axis=0).astype(np.float32)

    def taken_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`."""
        pooled = "images", 1, self.unet.pooled_width
        return {
            "image_embeddings": ("images", self.unet.effnet_channels, "embedding_height", "embedding_width"),
            "prompt_embeds_pooled": pooled,
            "negative_prompt_embeds_pooled": pooled,
        }

    def example_arrays(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """See `PipelineBase`."""
        return {"image_embeddings": (1, self.unet.effnet_channels, self.side(height), self.side(width))}

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`."""
        if output_type == "latent":
            return latents
        pixels = np.ascontiguousarray(self.vqgan.decode(latents).transpose(0, 2, 3, 1))
        return to_pil(pixels) if output_type == "pil" else pixels
