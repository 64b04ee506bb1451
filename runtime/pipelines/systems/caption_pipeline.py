"""Base of PixArt and Sana: a transformer reads captions with a mask, and generates in sizes of its training."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.image_size import check_size
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.pipelines.denoising import Predict
from diffoundry.runtime.pipelines.guidance import stack
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.systems.trained_sizes import closest_size, fit_images

__all__ = ["CaptionPipeline", "Network"]

Network = Callable[[FloatArray, float, Feeds], FloatArray]
"""(rows of latents (B, C, h, w), timestep, inputs of prompts) -> prediction."""

_EMBEDS = ("prompt_embeds", "negative_prompt_embeds")


class CaptionPipeline(StagedPipeline):
    """A pipeline of one stage. A subclass opens `transformer`, `vae` and `text_encoder`, and encodes captions.

    Attributes:
        encoder_label: The text encoder in a message.
        table_pixels: Pixels to a latent in the table of sizes.
        masks_take_turns: True if masks of several prompts take turns, unlike their states, as in some of diffusers'
            pipelines: a, b, a, b.
        transformer: The denoiser.
        vae: Latents to images.
        text_encoder: Reads captions; None where the bundle has none.
    """

    label: ClassVar[str] = "images of a prompt"
    encoder_label: ClassVar[str]
    table_pixels: ClassVar[int] = 8
    masks_take_turns: ClassVar[bool] = False

    transformer: Any
    vae: AutoencoderKL
    text_encoder: Any

    def encode(
        self, texts: Sequence[str], inputs: Any, tokens: int, *, negative: bool
    ) -> tuple[FloatArray, FloatArray]:
        """Return hidden states (B, tokens, D) of prompts, or of negative prompts, and their mask (B, tokens)."""
        raise NotImplementedError

    @property
    def scale_factor(self) -> int:
        """See `PipelineBase`."""
        return self.vae.scale_factor

    def size(self, inputs: Any) -> tuple[int, int]:
        """See `StagedPipeline`: the closest of the training, unless the call turns that off.

        Raises:
            InputError: The engines do not take it.
        """
        asked = self.result_size(inputs)
        if not inputs.use_resolution_binning:
            return asked
        size = closest_size(*asked, self.transformer.layout.sample_size, self.table_pixels)
        manifest = self.session.bundle.manifest
        try:
            check_size(size, *self.size_factors(), manifest.recipe if manifest else None)
        except InputError as error:
            raise InputError(
                f"use_resolution_binning: got True, which generates {size[1]}x{size[0]}, the closest size of the "
                f"training, and this bundle does not take it ({error}); pass False to generate {asked[1]}x{asked[0]}"
            ) from error
        return size

    def result_size(self, inputs: Any) -> tuple[int, int]:
        """See `StagedPipeline`: that of the call, or the checkpoint's own."""
        own = self.default_size
        return inputs.height or own[0], inputs.width or own[1]

    def size_multiple(self) -> int:
        """See `StagedPipeline`: whole patches."""
        return self.scale_factor * int(self.transformer.patch_size)

    def setting_arguments(self, steps: int, guidance_scale: float) -> dict[str, Any]:
        """See `PipelineBase`: a measurement generates in the size that it names."""
        settings = {**super().setting_arguments(steps, guidance_scale), "use_resolution_binning": False}
        # diffusers' own is an empty text, which it refuses beside embeddings.
        without = {} if self.text_encoder is not None else {"negative_prompt": None}
        return {**settings, **{name: value for name, value in without.items() if name in self.argument_names}}

    def example_arrays(self, height: int, width: int) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """See `PipelineBase`: embeddings, where there is no text encoder."""
        if self.text_encoder is not None:
            return {}
        tokens = self.Inputs.__dataclass_fields__["max_sequence_length"].default
        embeds, mask = (1, tokens, self.transformer.width), (1, tokens)
        names = [name for name in _EMBEDS if name in self.argument_names]
        return {**dict.fromkeys(names, embeds), **{_mask_name(name): mask for name in names}}

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

    def guided_predict(self, inputs: Any, feeds: Feeds, network: Network | None = None) -> Predict:
        """Return a network, guided by the negative prompt; a variance that it predicts beside the noise is dropped.

        Args:
            inputs: Of the call.
            feeds: Of `caption_feeds`.
            network: None for the transformer.
        """
        guided, scale = inputs.guidance_scale > 1, np.float32(inputs.guidance_scale)
        run: Network = network or self.transformer

        def predict(latents: FloatArray, timestep: float, _index: int) -> FloatArray:
            noise = self.drop_variance(run(np.concatenate([latents] * 2) if guided else latents, timestep, feeds))
            if not guided:
                return noise
            without, text = np.split(noise, 2)
            combined: FloatArray = without + scale * (text - without)
            return combined

        return predict

    def drop_variance(self, output: FloatArray) -> FloatArray:
        """Return what the network predicts without a variance, where it predicts one."""
        channels = int(self.transformer.in_channels)
        return output[:, :channels] if self.transformer.out_channels == 2 * channels else output

    def caption_feeds(self, inputs: Any, *, guided: bool) -> Feeds:
        """Return the states of prompts and their masks, one row an image, those of negative prompts first.

        diffusers: `PixArtAlphaPipeline.encode_prompt`, `SanaPipeline.encode_prompt`.
        """
        states, mask = inputs.prompt_embeds, inputs.prompt_attention_mask
        if states is None:
            states, mask = self._encode(inputs.texts(), inputs, inputs.max_sequence_length, negative=False)
        copies = inputs.num_images_per_prompt
        parts = [self._rows(states, mask, copies)]
        if guided:
            negative, hidden = inputs.negative_prompt_embeds, inputs.negative_prompt_attention_mask
            if negative is None:
                texts = inputs.negative_texts(guided=True)
                negative, hidden = self._encode(texts, inputs, states.shape[1], negative=True)
            parts.insert(0, self._rows(negative, hidden, copies))
        return stack(parts)

    def _rows(self, states: FloatArray, mask: Any, copies: int) -> Feeds:
        """Repeat states and masks to one row for each image."""
        masks = np.asarray(mask, np.float32)
        repeated = np.tile(masks, (copies, 1)) if self.masks_take_turns else np.repeat(masks, copies, axis=0)
        return {
            "encoder_hidden_states": np.repeat(states.astype(np.float32), copies, axis=0),
            "encoder_attention_mask": repeated,
        }

    def _encode(self, texts: Sequence[str], inputs: Any, tokens: int, *, negative: bool) -> tuple[FloatArray, Any]:
        """Call `encode`.

        Raises:
            InputError: The bundle has no text encoder.
        """
        if self.text_encoder is None:
            name, also = _EMBEDS[negative], ", also for the negative prompt unless guidance_scale is 1"
            raise InputError(
                f"{name}: got none, expected hidden states of {self.encoder_label} with their mask, since this bundle "
                f"has no text encoder; pass those of another bundle{also if _EMBEDS[1] in self.argument_names else ''}"
            )
        return self.encode(texts, inputs, tokens, negative=negative)

    def check_embeddings(self, inputs: Any) -> None:
        """Refuse embeddings and numbers of tokens that the engines do not take.

        Raises:
            InputError: As said.
        """
        for name in _EMBEDS:
            embeds = getattr(inputs, name, None)
            if embeds is not None and embeds.shape[2] != self.transformer.width:
                raise InputError(
                    f"{name}: got {embeds.shape[2]} numbers a token, expected {self.transformer.width}, as this "
                    f"checkpoint's text encoder makes them"
                )
        name, tokens = "max_sequence_length", inputs.max_sequence_length
        if inputs.prompt_embeds is not None:
            name, tokens = "prompt_embeds", inputs.prompt_embeds.shape[1]
        elif self.text_encoder is not None:
            self.check_tokens(tokens)
        taken = self.transformer.token_limit
        if taken is not None and tokens != taken:
            raise InputError(
                f"{name}: got {tokens} tokens, expected {taken}: the engine of {self.transformer.component!r} was made "
                f"for no other number; leave it out, or use an engine for onnxruntime or openvino"
            )

    def check_tokens(self, tokens: int) -> None:
        """Refuse a number of tokens that the text encoder does not take; by default its wrapper knows.

        Raises:
            InputError: As said.
        """
        self.text_encoder.check_tokens(tokens)


def _mask_name(embeds: str) -> str:
    return embeds.replace("embeds", "attention_mask")
