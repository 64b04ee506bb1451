"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet, a VAE, a safety checker; epsilon or v-prediction.

Depth to image has a depth estimator too.

Rombach et al. 2022, https://arxiv.org/abs/2112.10752.
"""

from dataclasses import replace

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.clip_text import clip_text_encoder
from diffoundry.exporter.components.depth_estimator import DEPTH_ESTIMATOR
from diffoundry.exporter.components.safety_checker import SAFETY_CHECKER
from diffoundry.exporter.components.unet import UNET, unet_2d_condition
from diffoundry.exporter.components.vae import VAE_DECODER, VAE_ENCODER

__all__ = ["FAMILY", "PERTURBED"]

FAMILY = FamilyDeclaration(
    name="stable_diffusion",
    components=(clip_text_encoder(normalized=True), UNET, VAE_ENCODER, VAE_DECODER, SAFETY_CHECKER, DEPTH_ESTIMATOR),
    folders=("scheduler", "tokenizer", "feature_extractor"),
)

PERTURBED = replace(
    FAMILY,
    name="stable_diffusion_pag",
    components=tuple(unet_2d_condition(perturbs=True) if kind is UNET else kind for kind in FAMILY.components),
)
"""With an input for layers whose self-attention is perturbed."""
