"""Kandinsky 2: a prior that makes image embeddings of prompts, and a decoder that makes images of embeddings.

Razzhigaev et al. 2023, https://arxiv.org/abs/2310.03502. diffusers: `KandinskyV22PriorPipeline`,
`KandinskyV22Pipeline` and their relatives; of version 2.1 `KandinskyPriorPipeline`, `KandinskyPipeline` and theirs,
whose decoder takes the prompt, too.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.clip_text import PROJECTED, clip_text_encoder
from diffoundry.exporter.components.clip_vision import clip_image_encoder
from diffoundry.exporter.components.multilingual_clip import multilingual_clip
from diffoundry.exporter.components.prior_transformer import prior_transformer
from diffoundry.exporter.components.unet import unet_2d_condition
from diffoundry.exporter.components.vae import vae_decoder, vae_encoder
from diffoundry.exporter.components.vq_model import VQ_CLASS

__all__ = ["DECODER", "PRIOR", "TEXT_DECODER"]

PRIOR = FamilyDeclaration(
    name="kandinsky_prior",
    components=(
        clip_text_encoder(model_classes=(PROJECTED,)),
        clip_image_encoder(folder="image_processor"),
        prior_transformer(),
    ),
    folders=("scheduler", "tokenizer", "image_processor"),
)

_MOVQ = (vae_encoder("movq", (VQ_CLASS,)), vae_decoder("movq", (VQ_CLASS,)))

DECODER = FamilyDeclaration(
    name="kandinsky_2_2",
    components=(unet_2d_condition(feeds=("image_embeds", "hint")), *_MOVQ),
    folders=("scheduler",),
)

TEXT_DECODER = FamilyDeclaration(
    name="kandinsky_2_1",
    components=(multilingual_clip(), unet_2d_condition(feeds=("text_embeds", "image_embeds")), *_MOVQ),
    folders=("scheduler", "tokenizer"),
)
