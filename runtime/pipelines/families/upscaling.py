"""Upscaling by Stable Diffusion: a UNet that reads a small image in pixel space, and the level of noise on it."""

from collections.abc import Mapping
from typing import Any, ClassVar

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.if_watermarker import read_watermarker
from diffoundry.runtime.pipelines.families.stable_diffusion import StableDiffusion
from diffoundry.runtime.schedulers import scheduler_from_config

__all__ = ["Upscaler"]

_SCALING_FACTOR = 0.08333
"""Scale of the latents, whatever the VAE's config says: diffusers' class writes it there."""

_MAX_NOISE_LEVEL = 350
"""Default of diffusers' class."""


class Upscaler(StableDiffusion):
    """diffusers: `StableDiffusionUpscalePipeline`."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "upscaling": {"num_inference_steps": 75, "guidance_scale": 9.0}
    }
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    tasks: ClassVar[tuple[str, ...] | None] = ("upscaling",)

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        super().__init__(session)
        bundle = session.bundle
        self.noising_scheduler = scheduler_from_config(bundle.read_object("low_res_scheduler/scheduler_config.json"))
        index = bundle.model_index
        self.watermarker = read_watermarker(bundle)
        self.max_noise_level = integer(index, "max_noise_level", _MAX_NOISE_LEVEL, subject="model_index.json")

    def open_vae(self, session: EngineSession) -> AutoencoderKL:
        """See `Family`."""
        vae = super().open_vae(session)
        vae.scaling_factor = _SCALING_FACTOR
        return vae
