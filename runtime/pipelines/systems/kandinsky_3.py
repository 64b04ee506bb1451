"""Kandinsky 3: text to image, and image to image, in one stage."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.kandinsky3_unet import TOKENS, Kandinsky3UNet
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.models.t5_encoder import T5EncoderModel
from diffoundry.runtime.models.vq_model import VQModel
from diffoundry.runtime.pipelines.denoising import Predict, Step
from diffoundry.runtime.pipelines.guidance import stack
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.kandinsky_3_inputs import (
    Kandinsky3ImageInputs,
    Kandinsky3Inputs,
    Kandinsky3TextInputs,
)
from diffoundry.runtime.pipelines.tasks.schedule import add_noise
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch, image_size, read_image

__all__ = ["Kandinsky3"]

_TEXT_ENCODER = "text_encoder"


class Kandinsky3(StagedPipeline):
    """diffusers: `Kandinsky3Pipeline` and `Kandinsky3Img2ImgPipeline`.

    Arkhipkin et al. 2023, https://arxiv.org/abs/2312.03511.

    Attributes:
        movq: Images to latents and back.
        unet: The denoiser.
    """

    Inputs: ClassVar[type[Any]] = Kandinsky3TextInputs
    label: ClassVar[str] = "images of a prompt"

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.unet = self.denoiser = Kandinsky3UNet(session)
        vae = open_vae(session)
        if not isinstance(vae, VQModel):
            raise BundleError(f"bundle {session.bundle.root}: got the VAE {type(vae).__name__}, expected a VQModel")
        self.vae = self.movq = vae
        self._t5 = T5EncoderModel(session, _TEXT_ENCODER) if _TEXT_ENCODER in session.bundle.components else None
        self.text_encoders = () if self._t5 is None else (self._t5,)

    @property
    def scale_factor(self) -> int:
        """See `PipelineBase`."""
        return self.movq.scale_factor

    @classmethod
    def input_classes(cls) -> Sequence[type[Any]]:
        """See `StagedPipeline`."""
        return Kandinsky3TextInputs, Kandinsky3ImageInputs

    def inputs_class(self, given: Sequence[str]) -> type[Any]:
        """See `StagedPipeline`: by the class of the checkpoint, and the image."""
        asked = not {"image", "strength"}.isdisjoint(given)  # a strength alone misses its image
        starts = "Img2Img" in self.session.bundle.pipeline_class or asked
        return Kandinsky3ImageInputs if starts else Kandinsky3TextInputs

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `PipelineBase`."""
        return ("image", "strength") if "Img2Img" in self.session.bundle.pipeline_class else ()

    @property
    def used_components(self) -> tuple[str, ...]:
        """See `StagedPipeline`: only an image to start from needs the encoder."""
        unused = () if self.example_inputs else ("vae_encoder",)
        return tuple(name for name in self.session.bundle.components if name not in unused)

    def example_arrays(self, height: int, width: int) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """See `PipelineBase`: embeddings, where there is no text encoder."""
        if self._t5 is not None:
            return {}
        return {"prompt_embeds": (1, TOKENS, self.unet.width), "attention_mask": (1, TOKENS)}

    def size_multiple(self) -> int:
        """See `StagedPipeline`: 64 pixels, to which diffusers rounds up other sizes."""
        return self.scale_factor * self.unet.divisor

    def size(self, inputs: Kandinsky3Inputs) -> tuple[int, int]:
        """See `StagedPipeline`: that of the image to start from, where there is one.

        Raises:
            InputError: It is no multiple of 64, or the call names another.
        """
        if not isinstance(inputs, Kandinsky3ImageInputs) or inputs.image is None:
            return StagedPipeline.size(self, inputs)
        size = image_size(inputs.image)
        multiple = self.size_multiple()
        if any(side % multiple for side in size):
            raise InputError(
                f"image: got {size[1]} x {size[0]} pixels, expected multiples of {multiple}; resize the image"
            )
        for name, side in zip(("height", "width"), size, strict=True):
            asked = getattr(inputs, name)
            if asked not in (None, side):
                raise InputError(f"{name}: got {asked}, expected the image's {side}; leave it out, or resize the image")
        return size

    def truncated(self, inputs: Kandinsky3Inputs) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        texts = inputs.texts()
        if self._t5 is None or not texts:
            return ("",) * inputs.count
        return self._t5.tokenizer(texts, max_length=TOKENS).truncated

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`: latents are decoded as they are, not as their nearest codes."""
        if output_type == "latent":
            return latents
        return postprocess(self.movq.decode(latents, quantize=False), output_type)

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler, channels = call.inputs, call.scheduler, self.unet.out_channels
        self._check_widths(inputs)
        scheduler.check_loop(channels=channels, output_channels=channels)
        scheduler.set_timesteps(inputs.num_inference_steps)
        timesteps = scheduler.model_timesteps
        if isinstance(inputs, Kandinsky3ImageInputs):
            steps = inputs.num_inference_steps
            timesteps = timesteps[steps - min(int(steps * inputs.strength), steps) :]
            if not len(timesteps):
                raise InputError(f"strength: got {inputs.strength}, which leaves no step; expected more, or more steps")

        def run(_: FloatArray | None) -> Iterator[Step]:
            feeds = self._feeds(inputs)
            start = self._start(call, timesteps[0])
            return call.denoise(self._predict(inputs, feeds), start, timesteps=timesteps, scale_input=False)

        return [Stage(name="denoising", total=len(timesteps), run=run)]

    def _check_widths(self, inputs: Kandinsky3Inputs) -> None:
        """Refuse embeddings that are not as wide as the denoiser takes them."""
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            embeds = getattr(inputs, name)
            if embeds is not None and embeds.shape[2] != self.unet.width:
                raise InputError(
                    f"{name}: got {embeds.shape[2]} numbers a token, expected {self.unet.width}, as this checkpoint's "
                    f"text encoder makes them"
                )

    def _start(self, call: StagedCall, timestep: Any) -> FloatArray:
        """Return noise, or the noisy latents of an image, a row for each image of the result."""
        inputs = call.inputs
        if not isinstance(inputs, Kandinsky3ImageInputs):
            shape = self.unet.latent_shape(call.images, *call.size, self.movq)
            return call.start_noise(shape, inputs.latents) * np.float32(call.scheduler.init_noise_sigma)
        assert inputs.image is not None, "checked"
        latents = np.repeat(self.movq.mode(read_image(inputs.image)), inputs.num_images_per_prompt, axis=0)
        rows = fill_batch(latents, call.images)
        return add_noise(call.scheduler, rows, call.randn(rows.shape), timestep)

    def _predict(self, inputs: Kandinsky3Inputs, feeds: Feeds) -> Predict:
        """Return the guided network. Its scale counts from 0: g + 1 of the text, less g of the negative prompt."""
        scale = inputs.guidance_scale

        def predict(latents: FloatArray, timestep: float, _index: int) -> FloatArray:
            if not scale > 1:
                return self.unet(latents, timestep, feeds)
            without, text = np.split(self.unet(np.concatenate([latents] * 2), timestep, feeds), 2)
            guided: FloatArray = (scale + 1.0) * text - scale * without
            return guided

        return predict

    def _feeds(self, inputs: Kandinsky3Inputs) -> Feeds:
        """Return the states of prompts and their masks, one row an image, those of negative prompts first.

        diffusers: `Kandinsky3Pipeline.encode_prompt`.
        """
        states, mask = inputs.prompt_embeds, inputs.attention_mask
        if states is None:
            states, mask = self._encode("prompt", inputs.texts())
            last = min(int(mask.sum(axis=1).max()) + 1, mask.shape[1])  # one more than the longest prompt has
            states, mask = states[:, :last], mask[:, :last]
        parts = [_rows(states, mask, inputs.num_images_per_prompt)]
        if inputs.guidance_scale > 1:
            states, mask = self._negative(inputs, states, mask)
            parts.insert(0, _rows(states, mask, inputs.num_images_per_prompt))
        return self.unet.fill(stack(parts))

    def _negative(self, inputs: Kandinsky3Inputs, states: FloatArray, mask: Any) -> tuple[FloatArray, Any]:
        """Return the states of negative prompts, as many tokens as prompts have, or zeros without any."""
        if inputs.negative_prompt_embeds is not None:
            return inputs.negative_prompt_embeds, inputs.negative_attention_mask
        if inputs.negative_prompt is None:
            return np.zeros_like(states), np.zeros_like(mask)
        negative, hidden = self._encode("negative_prompt", inputs.negative_texts(guided=True))
        return negative[:, : mask.shape[1]], hidden[:, : mask.shape[1]]

    def _encode(self, name: str, texts: Sequence[str]) -> tuple[FloatArray, FloatArray]:
        """Return states (B, 128, D), zeros behind the last token, and their mask (B, 128).

        Raises:
            InputError: The bundle has no text encoder.
        """
        if self._t5 is None:
            raise InputError(
                f"{name}: got a text, expected {name}_embeds, since this bundle has no text encoder; pass the hidden "
                f"states of another bundle's, with their mask"
            )
        mask = self._t5.tokenizer(texts, max_length=TOKENS).attention_mask.astype(np.float32)
        return self._t5.encode(texts, TOKENS)[0] * mask[:, :, np.newaxis], mask


def _rows(states: FloatArray, mask: Any, copies: int) -> Feeds:
    """Repeat rows to one for each image. As in diffusers, masks of several prompts take turns, unlike their states."""
    return {
        "encoder_hidden_states": np.repeat(states.astype(np.float32), copies, axis=0),
        "encoder_attention_mask": np.tile(np.asarray(mask, np.float32), (copies, 1)),
    }
