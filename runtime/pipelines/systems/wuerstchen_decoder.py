"""The decoder of Würstchen: the prior's small latents and a prompt to images."""

from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.paella_vq_model import PaellaVQModel
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.wuerstchen import WuerstchenDiffNeXt
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.systems.cascade_stage import CascadeDecoder
from diffoundry.runtime.pipelines.systems.wuerstchen_inputs import WuerstchenDecoderInputs

__all__ = ["WuerstchenDecoderPipeline"]


class WuerstchenDecoderPipeline(CascadeDecoder):
    """diffusers: `WuerstchenDecoderPipeline`.

    Pernias et al. 2023, https://arxiv.org/abs/2306.00637.

    Attributes:
        network: The denoiser.
    """

    Inputs: ClassVar[type[Any]] = WuerstchenDecoderInputs

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.network = self.denoiser = WuerstchenDiffNeXt(session)
        self.vqgan = PaellaVQModel(session)
        self.text_encoder = CLIPTextModel(session)
        self.text_encoders = (self.text_encoder,)
        self.effnet_channels, self.latent_multiple = self.network.effnet_channels, self.network.multiple

    def conditions(self, call: StagedCall, features: FloatArray, sides: tuple[int, int]) -> Feeds:
        """See `CascadeDecoder`."""
        inputs = call.inputs
        guided = inputs.guidance_scale > 1
        texts = [inputs.texts, inputs.negatives] if guided else [inputs.texts]
        prompts = self.tokenize([text for half in texts for text in half])
        states = self.text_encoder.encode(prompts, 1).outputs["last_hidden_state"]
        effnet = self.network.resize(features, sides)
        if guided:
            effnet = {name: np.concatenate([rows, np.zeros_like(rows)]) for name, rows in effnet.items()}
        return {"encoder_hidden_states": np.repeat(states, call.images // inputs.count, axis=0), **effnet}
