"""Würstchen: a prior that makes small latents of prompts, and a decoder that makes images of them.

Pernias et al. 2023, https://arxiv.org/abs/2306.00637. diffusers: `WuerstchenPriorPipeline` and
`WuerstchenDecoderPipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.clip_text import clip_text_encoder
from diffoundry.exporter.components.paella_vq_model import paella_decoder
from diffoundry.exporter.components.wuerstchen import WUERSTCHEN_DECODER, WUERSTCHEN_PRIOR

__all__ = ["DECODER", "PRIOR"]

PRIOR = FamilyDeclaration(name="wuerstchen_prior", components=(clip_text_encoder(masked=True), WUERSTCHEN_PRIOR))

DECODER = FamilyDeclaration(
    name="wuerstchen_decoder", components=(clip_text_encoder(masked=True), WUERSTCHEN_DECODER, paella_decoder())
)
