"""DeepFloyd IF: prompts, the loop in pixel space and the safety checker, which both stages have."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.postprocess import blacken, postprocess, to_pil
from diffoundry.runtime.models.if_safety_checker import IFSafetyChecker, IFVerdict
from diffoundry.runtime.models.if_watermarker import read_watermarker
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.roles import SAFETY_CHECKER
from diffoundry.runtime.models.sample_size import pixel_channels
from diffoundry.runtime.models.t5_encoder import T5EncoderModel
from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel
from diffoundry.runtime.pipelines.denoising import AfterStep, Step
from diffoundry.runtime.pipelines.guidance import stack
from diffoundry.runtime.pipelines.output import PipelineOutput
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.systems.captions import prepare_captions
from diffoundry.runtime.pipelines.systems.deepfloyd_images import check_count, read_images, read_masks, start_size
from diffoundry.runtime.pipelines.systems.deepfloyd_inputs import (
    IFInputs,
)
from diffoundry.runtime.pipelines.systems.kandinsky_decoder import combine_learned
from diffoundry.runtime.pipelines.tasks.schedule import add_noise, start_at_index, start_timesteps

__all__ = ["Cascade"]

_TEXT_ENCODER = "text_encoder"

_TOKENS = 77
"""Tokens of a prompt. T5 reads more, but was used so in the training."""


class Cascade(StagedPipeline):
    """Prompts, loop, safety checker and watermark of every stage.

    Attributes:
        unet: The denoiser.
        watermarker: Draws the checkpoint's watermark on PIL images; None without one. Set it to None to draw none.
    """

    start_name: ClassVar[str]
    """Argument with the image to start from."""

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        components = session.bundle.components
        self.unet = self.denoiser = UNet2DConditionModel(session)
        self._t5 = T5EncoderModel(session, _TEXT_ENCODER) if _TEXT_ENCODER in components else None
        self.text_encoders = () if self._t5 is None else (self._t5,)
        checks = self.checks_safety and SAFETY_CHECKER in components
        self._safety_checker = IFSafetyChecker(session) if checks else None
        self.watermarker = read_watermarker(session.bundle)
        self._channels = pixel_channels(self.unet.in_channels, self.unet.out_channels)
        self.follows_scheduler = "Inpainting" not in session.bundle.pipeline_class

    @property
    def used_components(self) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        names = tuple(self.session.bundle.components)
        return tuple(name for name in names if name != SAFETY_CHECKER or self._safety_checker is not None)

    def size(self, inputs: Any) -> tuple[int, int]:
        """See `StagedPipeline`: that of the image to start from, where there is one.

        Raises:
            InputError: The call names another.
        """
        start = getattr(inputs, self.start_name, None)
        if start is None:
            return StagedPipeline.size(self, inputs)
        size = start_size(start, self._side, self.start_name)
        for name, side in zip(("height", "width"), size, strict=True):
            asked = getattr(inputs, name)
            if asked not in (None, side):
                raise InputError(
                    f"{name}: got {asked}, expected {side}, the size of {self.start_name}; leave it out, or resize the "
                    f"image"
                )
        return size

    @property
    def takes_size(self) -> bool:
        """See `PipelineBase`: an image to start from has the size, also with a mask."""
        return self.start_name not in self.example_inputs

    @property
    def _side(self) -> int:
        """Pixels of the shorter side of an image to start from."""
        return self.default_size[0]

    def truncated(self, inputs: IFInputs) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        texts = inputs.texts()
        if self._t5 is None or not texts:
            return ("",) * inputs.count
        return self._t5.tokenizer(prepare_captions(texts, inputs.clean_caption), max_length=_TOKENS).truncated

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`: pixels from -1..1."""
        return postprocess(latents, output_type)

    def show(self, call: StagedCall, latents: FloatArray, output_type: str) -> tuple[Any, list[bool] | None]:
        """See `StagedPipeline`."""
        images, verdict = self._finish(call, latents, output_type)
        return images, None if verdict is None else verdict.nsfw

    def result(self, call: StagedCall, latents: FloatArray, seed: Any, truncated: tuple[str, ...]) -> Any:
        """See `StagedPipeline`: with both flags of the safety checker."""
        images, verdict = self._finish(call, latents, call.common.output_type)
        return PipelineOutput(
            images=images,
            seed=seed,
            truncated=truncated,
            nsfw_content_detected=None if verdict is None else verdict.nsfw,
            watermark_detected=None if verdict is None else verdict.watermark,
        )

    def _finish(self, call: StagedCall, latents: FloatArray, output_type: str) -> tuple[Any, IFVerdict | None]:
        """Decode, blacken what the safety checker flags, and draw the watermark on PIL images, as diffusers does."""
        images, verdict = self._judge(latents, output_type)
        if output_type == "pil" and self.watermarker is not None and not call.inputs.disable_watermark:
            images = self.watermarker.apply_watermark(images, self._side)
        return images, verdict

    def _judge(self, latents: FloatArray, output_type: str) -> tuple[Any, IFVerdict | None]:
        """Decode, and blacken the images that the safety checker flags."""
        if self._safety_checker is None or output_type == "latent":
            return self.decode(latents, output_type), None
        pixels = self.decode(latents, "np")
        verdict = self._safety_checker(to_pil(pixels))
        return blacken(pixels, verdict.flags, output_type), verdict

    def _timesteps(self, call: StagedCall) -> npt.NDArray[Any]:
        """Set the scheduler's timesteps and return those that are run."""
        inputs, scheduler, channels = call.inputs, call.scheduler, self._channels
        output = self.unet.out_channels if self._learns_variance(call) else channels
        scheduler.check_loop(channels=channels, output_channels=output, eta=inputs.eta)
        own = inputs.timesteps is not None
        scheduler.set_timesteps(None if own else inputs.num_inference_steps, timesteps=inputs.timesteps)
        strength = getattr(inputs, "strength", None)
        if strength is None:
            return start_at_index(scheduler, 0)
        return start_timesteps(scheduler, inputs.steps, strength, None)

    def _learns_variance(self, call: StagedCall) -> bool:
        """Return whether the scheduler takes the variance that the network predicts beside the noise."""
        return self.unet.out_channels in call.scheduler.output_channels(self._channels)

    def _texts(self, inputs: IFInputs) -> Feeds:
        """Return the hidden states of prompts, one row an image, those of negative prompts first.

        diffusers: `IFPipeline.encode_prompt`.
        """
        states = inputs.prompt_embeds
        if states is None:
            states = self._encode("prompt", inputs.texts(), inputs, _TOKENS)
        self._check_tokens(states.shape[1])
        parts = [{"encoder_hidden_states": states.astype(np.float32)}]
        if inputs.guidance_scale > 1:
            negative = inputs.negative_prompt_embeds
            if negative is None:
                texts = inputs.negative_texts(guided=True)
                negative = self._encode("negative_prompt", texts, inputs, states.shape[1])
            parts.insert(0, {"encoder_hidden_states": negative.astype(np.float32)})
        return {name: np.repeat(rows, inputs.num_images_per_prompt, axis=0) for name, rows in stack(parts).items()}

    def _encode(self, name: str, texts: Sequence[str], inputs: IFInputs, tokens: int) -> FloatArray:
        if self._t5 is None:
            raise InputError(
                f"{name}_embeds: got none, expected hidden states of T5, since this bundle has no text encoder; pass "
                f"those of another bundle, also for the negative prompt unless guidance_scale is 1"
            )
        return self._t5.encode(prepare_captions(texts, inputs.clean_caption), tokens)[0]

    def _check_tokens(self, tokens: int) -> None:
        taken = self.unet.token_limit
        if taken is not None and tokens != taken:
            raise InputError(
                f"prompt_embeds: got {tokens} tokens, expected {taken}: the engine of {self.unet.component!r} was made "
                f"for no other number"
            )

    def _rows(self, array: FloatArray, call: StagedCall, name: str) -> FloatArray:
        """Repeat the images of prompts to one row an image."""
        inputs = call.inputs
        check_count(len(array), inputs.count, call.images, name)
        if len(array) == call.images:
            return array
        rows = np.broadcast_to(array, (inputs.count, *array.shape[1:]))
        return np.repeat(rows, inputs.num_images_per_prompt, axis=0)

    def _start(self, call: StagedCall, timestep: Any) -> tuple[FloatArray, FloatArray | None]:
        """Return the sample of the first step, float32 (B, 3, H, W), and the mask (B, 1, H, W) or None.

        diffusers: `prepare_intermediate_images`.
        """
        inputs, scheduler = call.inputs, call.scheduler
        image, mask = (getattr(inputs, name, None) for name in (self.start_name, "mask_image"))
        if image is None or not hasattr(inputs, "strength"):
            shape = call.images, self._channels, *call.size
            return call.start_noise(shape, inputs.latents) * np.float32(scheduler.init_noise_sigma), None
        clean = self._rows(read_images(image, self.start_name, self._side), call, self.start_name)
        noisy = add_noise(scheduler, clean, call.randn(clean.shape), timestep)
        if mask is None:
            return noisy, None
        holes = self._rows(read_masks(mask, self._side, call.size), call, "mask_image")
        return (1 - holes) * clean + holes * noisy, holes

    def _denoise(
        self, call: StagedCall, timesteps: npt.NDArray[Any], start: FloatArray, mask: FloatArray | None,
        small: FloatArray | None, feeds: Feeds,
    ) -> Iterator[Step]:  # fmt: skip
        """Run the loop.

        Args:
            call: The call.
            timesteps: Those that are run.
            start: The first sample.
            mask: Ones where the image is generated, or None for all of it.
            small: The enlarged image of the second stage, float32 (B, 3, H, W), or None.
            feeds: Further inputs of the network.
        """
        scheduler, scale = call.scheduler, call.inputs.guidance_scale
        guided, learned = scale > 1, self._learns_variance(call)
        previous = start

        def predict(sample: FloatArray, timestep: float, _index: int) -> FloatArray:
            nonlocal previous
            previous = sample
            whole = sample if small is None else np.concatenate([sample, small], axis=1)
            rows = scheduler.scale_model_input(np.concatenate([whole] * (2 if guided else 1)), timestep)
            output = self.unet(rows, timestep, feeds)
            return combine_learned(output, self._channels, scale, guided=guided, learned=learned)

        def keep(_following: Any, sample: FloatArray) -> FloatArray:
            assert mask is not None, "only with one"
            kept: FloatArray = (1 - mask) * previous + mask * sample
            return kept

        after_step: AfterStep | None = None if mask is None else keep
        eta = call.inputs.eta
        return call.denoise(predict, start, timesteps=timesteps, eta=eta, after_step=after_step, scale_input=False)
