"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet, a VAE; epsilon or v-prediction.

Rombach et al. 2022, https://arxiv.org/abs/2112.10752.
"""

from diffoundry.exporter.component import Family
from diffoundry.exporter.components.autoencoder_kl import VAE_DECODER, VAE_ENCODER
from diffoundry.exporter.components.clip_text import clip_text_encoder
from diffoundry.exporter.components.unet import UNET

__all__ = ["FAMILY"]

FAMILY = Family(name="stable_diffusion", components=(clip_text_encoder(), UNET, VAE_ENCODER, VAE_DECODER))
