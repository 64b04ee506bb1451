"""Text to image by latent diffusion, with BERT as its text encoder: the ancestor of Stable Diffusion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_number, check_pixels
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.ldm_bert import LDMBertModel
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance, Condition, Guidance, Unguided
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.prompt_inputs import PromptInputs

__all__ = ["LatentTextToImage", "LatentTextToImageInputs"]

_PIXELS = 8
"""Pixels to a side of a latent, whatever the VAE. diffusers: `LDMTextToImagePipeline.__call__`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LatentTextToImageInputs(PromptInputs):
    """The arguments of diffusers' `LDMTextToImagePipeline`.

    Attributes:
        prompt: One prompt or several.
        negative_prompt: Refused: guidance is always away from the empty prompt.
        height: Pixels; None takes the checkpoint's own size.
        width: Pixels; None takes the checkpoint's own size.
        num_inference_steps: Steps of the scheduler.
        guidance_scale: 1 runs without guidance, at half the cost.
        num_images_per_prompt: Images for every prompt. diffusers has one; repeat its prompts for the same images.
        eta: DDIM's eta, 0 to 1.
        latents: Start noise, float32 (B, C, height/8, width/8), instead of drawing it.
    """

    unconditional: ClassVar[str] = "the empty prompt"

    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 50
    guidance_scale: float = 1.0
    eta: float = 0.0
    latents: FloatArray | None = None

    def check(self) -> None:
        """Refuse missing prompts, negative prompts, and numbers out of range.

        Raises:
            InputError: As said.
        """
        self.check_prompt()
        check_number("guidance_scale", self.guidance_scale, 0)
        check_number("eta", self.eta, 0, 1.0)
        for name in ("height", "width"):
            check_pixels(name, getattr(self, name))


class LatentTextToImage(StagedPipeline):
    """diffusers: `LDMTextToImagePipeline`. Rombach et al. 2021, https://arxiv.org/abs/2112.10752, section 4.3.

    Attributes:
        vae: The AutoencoderKL or VQModel.
        unet: The denoiser.
        bert: The text encoder.
    """

    Inputs: ClassVar[type[Any]] = LatentTextToImageInputs
    label: ClassVar[str] = "images of a text"

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`.

        Raises:
            BundleError: The VAE has another number of pixels to a latent.
        """
        self.unet = self.denoiser = UNet2DConditionModel(session)
        self.bert = LDMBertModel(session)
        self.text_encoders = (self.bert,)
        self.vae = open_vae(session)
        if self.vae.scale_factor != _PIXELS:
            raise BundleError(
                f"vae_decoder/config.json: got a VAE of {self.vae.scale_factor} pixels to a latent, expected {_PIXELS} "
                f"in a LDMTextToImagePipeline"
            )

    @property
    def scale_factor(self) -> int:
        """Pixels to a side of a latent."""
        return _PIXELS

    def size_multiple(self) -> int:
        """See `StagedPipeline`."""
        return _PIXELS

    def truncated(self, inputs: LatentTextToImageInputs) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        return self.bert.tokenizer(inputs.texts, max_length=self.bert.length).truncated

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler = call.inputs, call.scheduler
        shape = self.unet.latent_shape(call.images, *call.size, self.vae)
        scheduler.check_loop(channels=shape[1], output_channels=self.unet.out_channels, eta=inputs.eta)
        scheduler.set_timesteps(inputs.num_inference_steps)

        def run(_: FloatArray | None) -> Any:
            scale = inputs.guidance_scale
            guidance: Guidance = Unguided() if scale == 1 else ClassifierFreeGuidance(scale=scale)
            feeds = guidance.feeds(self._encode(inputs, guided=guidance.guided))

            def predict(latents: FloatArray, timestep: float, _index: int) -> FloatArray:
                return guidance.combine(self.unet(np.concatenate([latents] * guidance.copies), timestep, feeds))

            noise = call.start_noise(shape, inputs.latents)
            return call.denoise(predict, noise, eta=inputs.eta, scale_input=False)

        return [Stage(name="denoising", total=len(scheduler.model_timesteps), run=run)]

    def _encode(self, inputs: LatentTextToImageInputs, *, guided: bool) -> Condition:
        states, truncated = self.bert.encode(inputs.texts, self.bert.length)
        rows = np.repeat(states, inputs.num_images_per_prompt, axis=0)
        empty = np.repeat(self.bert.encode([""], self.bert.length)[0], len(rows), axis=0) if guided else None
        return Condition(
            conditional={"encoder_hidden_states": rows},
            unconditional=None if empty is None else {"encoder_hidden_states": empty},
            truncated=truncated,
        )

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`."""
        if output_type == "latent":
            return latents
        return postprocess(self.vae.decode(1 / self.vae.scaling_factor * latents), output_type)
