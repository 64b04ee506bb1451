"""Z-Image: Qwen 3, a transformer over tokens of 2 x 2 latents and of the caption, a VAE of 16 channels.

Tongyi Lab 2025, https://arxiv.org/abs/2511.22699. diffusers: `ZImagePipeline`,
`ZImageOmniPipeline`.
"""

from functools import partial

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.causal_lm_text import QWEN_3, causal_text_encoder
from diffoundry.exporter.components.siglip2_vision import siglip2_image_encoder
from diffoundry.exporter.components.vae import VAE_DECODER, VAE_ENCODER
from diffoundry.exporter.components.z_image_controlnet import z_image_controlnet
from diffoundry.exporter.components.z_image_omni_transformer import z_image_omni_transformer
from diffoundry.exporter.components.z_image_transformer import z_image_transformer
from diffoundry.runtime.pipelines.families.z_image import CHAT, HIDDEN_STATE, TOKENS
from diffoundry.runtime.pipelines.families.z_image_omni import ENCODER, PROCESSOR

__all__ = ["FAMILY", "OMNI"]

FAMILY = FamilyDeclaration(
    name="z_image",
    components=(
        causal_text_encoder(model_classes=QWEN_3, hidden_states=(HIDDEN_STATE,), tokens=TOKENS, chat=CHAT),
        z_image_transformer(TOKENS),
        VAE_ENCODER,
        VAE_DECODER,
    ),
    controlnet=partial(z_image_controlnet, tokens=TOKENS),
)

OMNI = FamilyDeclaration(
    name="z_image_omni",
    components=(
        causal_text_encoder(model_classes=QWEN_3, hidden_states=(HIDDEN_STATE,), tokens=TOKENS),
        siglip2_image_encoder(ENCODER),
        z_image_omni_transformer(TOKENS, encoder=ENCODER),
        VAE_ENCODER,
        VAE_DECODER,
    ),
    folders=("scheduler", "tokenizer", PROCESSOR),
)
