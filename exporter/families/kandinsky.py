"""Kandinsky 2.2: a prior that makes image embeddings of prompts, and a decoder that makes images of embeddings.

Razzhigaev et al. 2023, https://arxiv.org/abs/2310.03502. diffusers: `KandinskyV22PriorPipeline`,
`KandinskyV22Pipeline` and their relatives.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.clip_text import PROJECTED, clip_text_encoder
from diffoundry.exporter.components.clip_vision import clip_image_encoder
from diffoundry.exporter.components.prior_transformer import prior_transformer
from diffoundry.exporter.components.unet import unet_2d_condition
from diffoundry.exporter.components.vae import vae_decoder, vae_encoder
from diffoundry.exporter.components.vq_model import VQ_CLASS

__all__ = ["DECODER", "PRIOR"]

PRIOR = FamilyDeclaration(
    name="kandinsky_prior",
    components=(
        clip_text_encoder(model_classes=(PROJECTED,)),
        clip_image_encoder(folder="image_processor"),
        prior_transformer(),
    ),
    folders=("scheduler", "tokenizer", "image_processor"),
)

DECODER = FamilyDeclaration(
    name="kandinsky_2_2",
    components=(
        unet_2d_condition(feeds=("image_embeds", "hint")),
        vae_encoder("movq", (VQ_CLASS,)),
        vae_decoder("movq", (VQ_CLASS,)),
    ),
    folders=("scheduler",),
)
