"""PixArt-Alpha and PixArt-Sigma: text to image by a transformer that reads T5."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.image_size import check_size
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.pixart_transformer_2d import PixArtTransformer2DModel
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.models.t5_encoder import T5EncoderModel
from diffoundry.runtime.pipelines.denoising import Predict, Step
from diffoundry.runtime.pipelines.guidance import stack
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.captions import prepare_captions
from diffoundry.runtime.pipelines.systems.pixart_inputs import PixArtAlphaInputs, PixArtSigmaInputs
from diffoundry.runtime.pipelines.systems.pixart_sizes import closest_size, fit_images

__all__ = ["PixArtAlpha", "PixArtSigma"]

_TEXT_ENCODER = "text_encoder"


class PixArtAlpha(StagedPipeline):
    """diffusers: `PixArtAlphaPipeline`. Chen et al. 2023, https://arxiv.org/abs/2310.00426.

    Attributes:
        transformer: The denoiser.
        vae: Latents to images.
    """

    Inputs: ClassVar[type[Any]] = PixArtAlphaInputs
    label: ClassVar[str] = "images of a prompt"
    ends_denoised: ClassVar[bool] = True
    """True if the only step of a run yields the clean sample that the scheduler predicts, as distilled models need."""

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.vae = open_vae(session)
        self.transformer = self.denoiser = PixArtTransformer2DModel(session, self.vae.scale_factor)
        self._t5 = T5EncoderModel(session, _TEXT_ENCODER) if _TEXT_ENCODER in session.bundle.components else None
        self.text_encoders = () if self._t5 is None else (self._t5,)

    @property
    def scale_factor(self) -> int:
        """See `PipelineBase`."""
        return self.vae.scale_factor

    def size(self, inputs: PixArtAlphaInputs) -> tuple[int, int]:
        """See `StagedPipeline`: the closest of the training, unless the call turns that off.

        Raises:
            InputError: The engines do not take it.
        """
        asked = self.result_size(inputs)
        if not inputs.use_resolution_binning:
            return asked
        size = closest_size(*asked, self.transformer.layout.sample_size)
        manifest = self.session.bundle.manifest
        try:
            check_size(size, *self.size_factors(), manifest.recipe if manifest else None)
        except InputError as error:
            raise InputError(
                f"use_resolution_binning: got True, which generates {size[1]}x{size[0]}, the closest size of the "
                f"training, and this bundle does not take it ({error}); pass False to generate {asked[1]}x{asked[0]}"
            ) from error
        return size

    def result_size(self, inputs: PixArtAlphaInputs) -> tuple[int, int]:
        """See `StagedPipeline`: that of the call, or the checkpoint's own."""
        own = self.default_size
        return inputs.height or own[0], inputs.width or own[1]

    def size_multiple(self) -> int:
        """See `StagedPipeline`: whole patches."""
        return self.scale_factor * self.transformer.patch_size

    def setting_arguments(self, steps: int, guidance_scale: float) -> dict[str, Any]:
        """See `PipelineBase`: a measurement generates in the size that it names."""
        settings = {**super().setting_arguments(steps, guidance_scale), "use_resolution_binning": False}
        # diffusers' own is an empty text, which it refuses beside embeddings.
        return settings if self.text_encoders else {**settings, "negative_prompt": None}

    def example_arrays(self, height: int, width: int) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """See `PipelineBase`: embeddings, where there is no text encoder."""
        if self.text_encoders:
            return {}
        tokens = self.Inputs.__dataclass_fields__["max_sequence_length"].default
        embeds, mask = (1, tokens, self.transformer.width), (1, tokens)
        return {
            "prompt_embeds": embeds, "prompt_attention_mask": mask,
            "negative_prompt_embeds": embeds, "negative_prompt_attention_mask": mask,
        }  # fmt: skip

    def truncated(self, inputs: PixArtAlphaInputs) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        texts = inputs.texts()
        if self._t5 is None or not texts:
            return ("",) * inputs.count
        captions = prepare_captions(texts, inputs.clean_caption)
        return self._t5.tokenizer(captions, max_length=inputs.max_sequence_length).truncated

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`: in the size of the latents."""
        if output_type == "latent":
            return latents
        return postprocess(self.vae.decode(self.vae.denormalize(latents)), output_type)

    def show(self, call: StagedCall, latents: FloatArray, output_type: str) -> tuple[Any, list[bool] | None]:
        """See `StagedPipeline`: images are resized to the size that was asked for."""
        if output_type == "latent":
            return latents, None
        pixels = self.vae.decode(self.vae.denormalize(latents))
        if call.inputs.use_resolution_binning:
            pixels = fit_images(pixels, *self.result_size(call.inputs))
        return postprocess(pixels, output_type), None

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler, channels = call.inputs, call.scheduler, self.transformer.in_channels
        self._check_embeddings(inputs)
        scheduler.check_loop(channels=channels, output_channels=channels, eta=inputs.eta)
        own = {"timesteps": inputs.timesteps, "sigmas": inputs.sigmas}
        given = any(values is not None for values in own.values())
        scheduler.set_timesteps(None if given else inputs.num_inference_steps, **own)

        def run(_: FloatArray | None) -> Iterator[Step]:
            feeds = self._feeds(inputs)
            shape = self.transformer.latent_shape(call.images, *call.size, self.vae)
            start = call.start_noise(shape, inputs.latents) * np.float32(scheduler.init_noise_sigma)
            ends = self.ends_denoised and inputs.steps == 1
            return call.denoise(self._predict(inputs, feeds), start, eta=inputs.eta, ends_denoised=ends)

        return [Stage(name="denoising", total=len(scheduler.model_timesteps), run=run)]

    def _predict(self, inputs: PixArtAlphaInputs, feeds: Feeds) -> Predict:
        """Return the guided network; a variance that it predicts beside the noise is dropped."""
        guided, scale = inputs.guidance_scale > 1, np.float32(inputs.guidance_scale)
        channels = self.transformer.in_channels
        learned = self.transformer.out_channels == 2 * channels

        def predict(latents: FloatArray, timestep: float, _index: int) -> FloatArray:
            rows = np.concatenate([latents] * 2) if guided else latents
            output = self.transformer(rows, timestep, feeds)
            noise = output[:, :channels] if learned else output
            if not guided:
                return noise
            without, text = np.split(noise, 2)
            combined: FloatArray = without + scale * (text - without)
            return combined

        return predict

    def _feeds(self, inputs: PixArtAlphaInputs) -> Feeds:
        """Return the states of prompts and their masks, one row an image, those of negative prompts first.

        diffusers: `PixArtAlphaPipeline.encode_prompt`.
        """
        states, mask = inputs.prompt_embeds, inputs.prompt_attention_mask
        if states is None:
            states, mask = self._encode("prompt", inputs.texts(), inputs, inputs.max_sequence_length)
        parts = [_rows(states, mask)]
        if inputs.guidance_scale > 1:
            negative, hidden = inputs.negative_prompt_embeds, inputs.negative_prompt_attention_mask
            if negative is None:
                texts = inputs.negative_texts(guided=True)
                negative, hidden = self._encode("negative_prompt", texts, inputs, states.shape[1])
            parts.insert(0, _rows(negative, hidden))
        rows = stack(parts)
        return {name: np.repeat(array, inputs.num_images_per_prompt, axis=0) for name, array in rows.items()}

    def _encode(
        self, name: str, texts: Sequence[str], inputs: PixArtAlphaInputs, tokens: int
    ) -> tuple[FloatArray, Any]:
        """Return hidden states (B, tokens, D) and their mask (B, tokens).

        Raises:
            InputError: The bundle has no text encoder.
        """
        if self._t5 is None:
            raise InputError(
                f"{name}_embeds: got none, expected hidden states of T5 with their mask, since this bundle has no text "
                f"encoder; pass those of another bundle, also for the negative prompt unless guidance_scale is 1"
            )
        captions = prepare_captions(texts, inputs.clean_caption)
        mask = self._t5.tokenizer(captions, max_length=tokens).attention_mask
        return self._t5.encode(captions, tokens)[0], mask

    def _check_embeddings(self, inputs: PixArtAlphaInputs) -> None:
        """Refuse embeddings and numbers of tokens that the engines do not take.

        Raises:
            InputError: As said.
        """
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            embeds = getattr(inputs, name)
            if embeds is not None and embeds.shape[2] != self.transformer.width:
                raise InputError(
                    f"{name}: got {embeds.shape[2]} numbers a token, expected {self.transformer.width}, as this "
                    f"checkpoint's text encoder makes them"
                )
        name, tokens = "max_sequence_length", inputs.max_sequence_length
        if inputs.prompt_embeds is not None:
            name, tokens = "prompt_embeds", inputs.prompt_embeds.shape[1]
        elif self._t5 is not None:
            self._t5.check_tokens(tokens)
        taken = self.transformer.token_limit
        if taken is not None and tokens != taken:
            raise InputError(
                f"{name}: got {tokens} tokens, expected {taken}: the engine of {self.transformer.component!r} was made "
                f"for no other number; leave it out, or use an engine for onnxruntime or openvino"
            )


class PixArtSigma(PixArtAlpha):
    """diffusers: `PixArtSigmaPipeline`. Chen et al. 2024, https://arxiv.org/abs/2403.04692."""

    Inputs: ClassVar[type[Any]] = PixArtSigmaInputs
    ends_denoised: ClassVar[bool] = False


def _rows(states: FloatArray, mask: Any) -> Feeds:
    return {
        "encoder_hidden_states": states.astype(np.float32),
        "encoder_attention_mask": np.asarray(mask, np.float32),
    }
