"""Stable Cascade: a prior that makes small latents of prompts, and a decoder that makes images of them.

Pernias et al. 2023, https://arxiv.org/abs/2306.00637. diffusers: `StableCascadePriorPipeline` and
`StableCascadeDecoderPipeline`.
"""

from dataclasses import replace

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.clip_text import PROJECTED, clip_text_encoder
from diffoundry.exporter.components.clip_vision import IMAGE_ENCODER
from diffoundry.exporter.components.paella_vq_model import paella_decoder
from diffoundry.exporter.components.stable_cascade_unet import STABLE_CASCADE_DECODER, STABLE_CASCADE_PRIOR

__all__ = ["DECODER", "PRIOR"]

PRIOR = FamilyDeclaration(
    name="stable_cascade_prior",
    components=(
        clip_text_encoder(model_classes=(PROJECTED,), hidden_states=True, masked=True),
        replace(IMAGE_ENCODER, optional=True),
        STABLE_CASCADE_PRIOR,
    ),
    folders=("scheduler", "tokenizer", "feature_extractor"),
)

DECODER = FamilyDeclaration(
    name="stable_cascade_decoder",
    components=(clip_text_encoder(model_classes=(PROJECTED,)), STABLE_CASCADE_DECODER, paella_decoder()),
    folders=("scheduler", "tokenizer"),
)
