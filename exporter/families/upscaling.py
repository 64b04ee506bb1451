"""Upscaling by Stable Diffusion, such as stable-diffusion-x4-upscaler: pixels of a small image beside the latents.

diffusers: `StableDiffusionUpscalePipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.clip_text import clip_text_encoder
from diffoundry.exporter.components.safety_checker import SAFETY_CHECKER
from diffoundry.exporter.components.unet import unet_2d_condition
from diffoundry.exporter.components.vae import VAE_DECODER
from diffoundry.runtime.models.if_watermarker import FOLDER

__all__ = ["FAMILY"]

FAMILY = FamilyDeclaration(
    name="upscaling",
    components=(
        clip_text_encoder(normalized=True),
        unet_2d_condition(feeds=("class_labels",)),
        VAE_DECODER,
        SAFETY_CHECKER,
    ),
    folders=("scheduler", "low_res_scheduler", "tokenizer", "feature_extractor"),
    weight_folders=(FOLDER,),
)
