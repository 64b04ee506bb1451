"""Stable unCLIP: Stable Diffusion 2 that is conditioned on a prompt and on a noised image embedding.

diffusers: `StableUnCLIPPipeline`, whose prior makes the embedding from the prompt, and `StableUnCLIPImg2ImgPipeline`,
which encodes an image.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.clip_text import PROJECTED, clip_text_encoder
from diffoundry.exporter.components.clip_vision import IMAGE_ENCODER
from diffoundry.exporter.components.image_normalizer import IMAGE_NORMALIZER
from diffoundry.exporter.components.prior_transformer import prior_transformer
from diffoundry.exporter.components.unet import unet_2d_condition
from diffoundry.exporter.components.vae import VAE_DECODER

__all__ = ["FAMILY", "IMAGE"]

_COMPONENTS = (
    IMAGE_NORMALIZER,
    clip_text_encoder(normalized=True),
    unet_2d_condition(feeds=("class_labels",)),
    VAE_DECODER,
)

FAMILY = FamilyDeclaration(
    name="stable_unclip",
    components=(
        clip_text_encoder("prior_text_encoder", model_classes=(PROJECTED,)),
        prior_transformer(),
        *_COMPONENTS,
    ),
    folders=("prior_scheduler", "image_noising_scheduler", "scheduler", "tokenizer", "prior_tokenizer"),
)

IMAGE = FamilyDeclaration(
    name="stable_unclip_image",
    components=(IMAGE_ENCODER, *_COMPONENTS),
    folders=("image_noising_scheduler", "scheduler", "tokenizer", "feature_extractor"),
)
