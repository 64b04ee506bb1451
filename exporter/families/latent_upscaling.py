"""Upscaling of latents to twice their size, such as sd-x2-latent-upscaler: a UNet of k-diffusion's blocks.

diffusers: `StableDiffusionLatentUpscalePipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.clip_text import clip_text_encoder
from diffoundry.exporter.components.unet import unet_2d_condition
from diffoundry.exporter.components.vae import VAE_DECODER, VAE_ENCODER

__all__ = ["FAMILY"]

FAMILY = FamilyDeclaration(
    name="latent_upscaling",
    components=(clip_text_encoder(hidden_states=True), unet_2d_condition(), VAE_ENCODER, VAE_DECODER),
    folders=("scheduler", "tokenizer"),
)
