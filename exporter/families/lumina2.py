"""Lumina-Image 2.0: Gemma 2, a transformer over latents, a VAE of 16 channels.

Qin et al. 2025, https://arxiv.org/abs/2503.21758. diffusers: `Lumina2Pipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.causal_lm_text import GEMMA_2, causal_text_encoder
from diffoundry.exporter.components.lumina2_transformer import lumina2_transformer
from diffoundry.exporter.components.vae import vae_decoder
from diffoundry.runtime.pipelines.families.lumina2 import HIDDEN_STATE, TOKENS

__all__ = ["FAMILY"]

FAMILY = FamilyDeclaration(
    name="lumina2",
    components=(
        causal_text_encoder(model_classes=GEMMA_2, hidden_states=(HIDDEN_STATE,), tokens=TOKENS),
        lumina2_transformer(TOKENS),
        vae_decoder(),
    ),
)
