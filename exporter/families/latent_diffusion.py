"""Latent diffusion: a VQModel or AutoencoderKL, of which the decoder alone runs, and a UNet.

Rombach et al. 2021, https://arxiv.org/abs/2112.10752. diffusers: `LDMPipeline`, `LDMSuperResolutionPipeline`,
`LDMTextToImagePipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.ldm_bert import LDM_BERT
from diffoundry.exporter.components.unet import UNET
from diffoundry.exporter.components.unet_2d import unet_2d
from diffoundry.exporter.components.vae import vae_decoder
from diffoundry.exporter.components.vq_model import VQ_CLASS

__all__ = ["SUPER_RESOLUTION", "TEXT_TO_IMAGE", "UNCONDITIONAL"]

_DECODER = vae_decoder("vqvae", (VQ_CLASS, "AutoencoderKL"))

UNCONDITIONAL = FamilyDeclaration(name="latent_diffusion", components=(unet_2d(), _DECODER), folders=("scheduler",))
SUPER_RESOLUTION = FamilyDeclaration(
    name="latent_diffusion_super_resolution", components=(unet_2d(), _DECODER), folders=("scheduler",)
)
TEXT_TO_IMAGE = FamilyDeclaration(
    name="latent_diffusion_text_to_image", components=(LDM_BERT, UNET, _DECODER), folders=("scheduler", "tokenizer")
)
