"""The decoder of Stable Cascade: the prior's small latents and the pooled prompt to images."""

from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.paella_vq_model import PaellaVQModel
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.stable_cascade_unet import StableCascadeUNet
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.systems.cascade_stage import CascadeDecoder
from diffoundry.runtime.pipelines.systems.stable_cascade_inputs import StableCascadeDecoderInputs
from diffoundry.runtime.schedulers.arithmetic.resampling import resample

__all__ = ["StableCascadeDecoder"]


class StableCascadeDecoder(CascadeDecoder):
    """diffusers: `StableCascadeDecoderPipeline`.

    Pernias et al. 2023, https://arxiv.org/abs/2306.00637.

    Attributes:
        unet: The denoiser.
    """

    Inputs: ClassVar[type[Any]] = StableCascadeDecoderInputs

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.unet = self.denoiser = StableCascadeUNet(session, "decoder")
        self.vqgan = PaellaVQModel(session)
        self.text_encoder = CLIPTextModel(session)
        self.text_encoders = (self.text_encoder,)
        self.effnet_channels, self.latent_multiple = self.unet.effnet_channels, self.unet.patch_size

    def conditions(self, call: StagedCall, features: FloatArray, sides: tuple[int, int]) -> Feeds:
        """See `CascadeDecoder`."""
        patches = tuple(side // self.unet.patch_size for side in sides)
        effnet, pooled = resample(features, patches, "bilinear", align_corners=True), [self._pooled(call, "")]
        if call.inputs.guidance_scale > 1:
            effnet = np.concatenate([effnet, np.zeros_like(effnet)])
            pooled.append(self._pooled(call, "negative_"))
        return {"effnet": effnet, "clip_text_pooled": np.concatenate(pooled)}

    def _pooled(self, call: StagedCall, prefix: str) -> FloatArray:
        """Return the pooled texts, or negative texts, with a row for each image."""
        inputs = call.inputs
        pooled = getattr(inputs, f"{prefix}prompt_embeds_pooled")
        if pooled is None:
            encoded = self.text_encoder.encode(self.tokenize(inputs.negatives if prefix else inputs.texts), 1)
            pooled = encoded.outputs["text_embeds"][:, None]
        return np.repeat(pooled, call.images // len(pooled), axis=0).astype(np.float32)

    def taken_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`."""
        pooled = "images", 1, self.unet.pooled_width
        names = "prompt_embeds_pooled", "negative_prompt_embeds_pooled"
        return {**super().taken_shapes(), **dict.fromkeys(names, pooled)}
