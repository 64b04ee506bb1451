"""Shap-E: a prior that makes the latents of a 3D object, of a prompt or of an image.

Jun and Nichol 2023, https://arxiv.org/abs/2305.02463. diffusers: `ShapEPipeline`, `ShapEImg2ImgPipeline`. Their
renderer, which makes images or a mesh of the latents, is no part of a bundle.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.clip_text import PROJECTED, clip_text_encoder
from diffoundry.exporter.components.clip_vision import clip_image_encoder
from diffoundry.exporter.components.prior_transformer import prior_transformer

__all__ = ["IMAGE", "TEXT"]

TEXT = FamilyDeclaration(
    name="shap_e",
    components=(clip_text_encoder(model_classes=(PROJECTED,)), prior_transformer(reads_text=False)),
    folders=("scheduler", "tokenizer"),
)

IMAGE = FamilyDeclaration(
    name="shap_e_image",
    components=(
        clip_image_encoder(folder="image_processor", projected=False),
        prior_transformer(reads_text=False, sees_image=True),
    ),
    folders=("scheduler", "image_processor"),
)
