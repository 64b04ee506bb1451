"""Stable Diffusion XL and its refiner: two CLIP text encoders or the second alone, a UNet with size inputs, a VAE.

Podell et al. 2023, https://arxiv.org/abs/2307.01952.
"""

from dataclasses import replace

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.clip_text import PLAIN, PROJECTED, clip_text_encoder
from diffoundry.exporter.components.unet import UNET, unet_2d_condition
from diffoundry.exporter.components.vae import VAE_DECODER, VAE_ENCODER

__all__ = ["FAMILY", "PERTURBED"]

FAMILY = FamilyDeclaration(
    name="stable_diffusion_xl",
    components=(
        replace(clip_text_encoder(model_classes=(PLAIN, PROJECTED), hidden_states=True), optional=True),
        clip_text_encoder("text_encoder_2", model_classes=(PROJECTED,), hidden_states=True),
        UNET,
        VAE_ENCODER,
        VAE_DECODER,
    ),
    folders=("scheduler", "tokenizer", "tokenizer_2"),
)

PERTURBED = replace(
    FAMILY,
    name="stable_diffusion_xl_pag",
    components=tuple(unet_2d_condition(perturbs=True) if kind is UNET else kind for kind in FAMILY.components),
)
"""With an input for layers whose self-attention is perturbed."""
