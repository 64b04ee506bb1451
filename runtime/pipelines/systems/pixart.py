"""PixArt-Alpha and PixArt-Sigma: text to image by a transformer that reads T5."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.pixart_transformer_2d import PixArtTransformer2DModel
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.models.t5_encoder import T5EncoderModel
from diffoundry.runtime.pipelines.denoising import Step
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.caption_pipeline import CaptionPipeline
from diffoundry.runtime.pipelines.systems.captions import prepare_captions
from diffoundry.runtime.pipelines.systems.pixart_inputs import PixArtAlphaInputs, PixArtSigmaInputs

__all__ = ["PixArtAlpha", "PixArtSigma"]

_TEXT_ENCODER = "text_encoder"


class PixArtAlpha(CaptionPipeline):
    """diffusers: `PixArtAlphaPipeline`. Chen et al. 2023, https://arxiv.org/abs/2310.00426."""

    Inputs: ClassVar[type[Any]] = PixArtAlphaInputs
    encoder_label: ClassVar[str] = "T5"
    ends_denoised: ClassVar[bool] = True
    """True if the only step of a run yields the clean sample that the scheduler predicts, as distilled models need."""

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.vae = open_vae(session)
        self.transformer = self.denoiser = PixArtTransformer2DModel(session, self.vae.scale_factor)
        self.text_encoder = (
            T5EncoderModel(session, _TEXT_ENCODER) if _TEXT_ENCODER in session.bundle.components else None
        )
        self.text_encoders = () if self.text_encoder is None else (self.text_encoder,)

    def truncated(self, inputs: PixArtAlphaInputs) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        texts = inputs.texts()
        if self.text_encoder is None or not texts:
            return ("",) * inputs.count
        captions = prepare_captions(texts, inputs.clean_caption)
        batch = self.text_encoder.tokenizer(captions, max_length=inputs.max_sequence_length)
        cut: tuple[str, ...] = batch.truncated
        return cut

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler, channels = call.inputs, call.scheduler, self.transformer.in_channels
        self.check_embeddings(inputs)
        scheduler.check_loop(channels=channels, output_channels=channels, eta=inputs.eta)
        own = {"timesteps": inputs.timesteps, "sigmas": inputs.sigmas}
        given = any(values is not None for values in own.values())
        scheduler.set_timesteps(None if given else inputs.num_inference_steps, **own)

        def run(_: FloatArray | None) -> Iterator[Step]:
            feeds = self.caption_feeds(inputs, guided=inputs.guidance_scale > 1)
            shape = self.transformer.latent_shape(call.images, *call.size, self.vae)
            start = call.start_noise(shape, inputs.latents) * np.float32(scheduler.init_noise_sigma)
            ends = self.ends_denoised and inputs.steps == 1
            return call.denoise(self.guided_predict(inputs, feeds), start, eta=inputs.eta, ends_denoised=ends)

        return [Stage(name="denoising", total=len(scheduler.model_timesteps), run=run)]

    def encode(
        self,
        texts: Sequence[str],
        inputs: PixArtAlphaInputs,
        tokens: int,
        *,
        negative: bool,  # noqa: ARG002
    ) -> tuple[FloatArray, FloatArray]:
        """See `CaptionPipeline`."""
        captions = prepare_captions(texts, inputs.clean_caption)
        mask: FloatArray = self.text_encoder.tokenizer(captions, max_length=tokens).attention_mask
        return self.text_encoder.encode(captions, tokens)[0], mask


class PixArtSigma(PixArtAlpha):
    """diffusers: `PixArtSigmaPipeline`. Chen et al. 2024, https://arxiv.org/abs/2403.04692."""

    Inputs: ClassVar[type[Any]] = PixArtSigmaInputs
    ends_denoised: ClassVar[bool] = False
