"""PixArt-Sigma with perturbed-attention guidance."""

from typing import Any, ClassVar

from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.pipelines.denoising import Predict
from diffoundry.runtime.pipelines.systems.caption_pipeline import Network
from diffoundry.runtime.pipelines.systems.perturbed_attention import perturbed_predict
from diffoundry.runtime.pipelines.systems.pixart import PixArtSigma
from diffoundry.runtime.pipelines.systems.pixart_inputs import PixArtSigmaPAGInputs

__all__ = ["PixArtSigmaPAG"]


class PixArtSigmaPAG(PixArtSigma):
    """diffusers: `PixArtSigmaPAGPipeline`. Ahn et al. 2024, https://arxiv.org/abs/2403.17377."""

    Inputs: ClassVar[type[Any]] = PixArtSigmaPAGInputs

    def guided_predict(self, inputs: PixArtSigmaPAGInputs, feeds: Feeds, network: Network | None = None) -> Predict:
        """See `CaptionPipeline`: also away from perturbed attention."""
        if not inputs.pag_scale > 0:
            return super().guided_predict(inputs, feeds, network)
        run: Network = network or self.transformer
        images = len(feeds["encoder_hidden_states"]) // (2 if inputs.guidance_scale > 1 else 1)

        def whole(rows: FloatArray, timestep: float, given: Feeds) -> FloatArray:
            return self.drop_variance(run(rows, timestep, given))

        return perturbed_predict(inputs, feeds, images, self.transformer.layers, whole)
