"""Chroma: T5, FLUX.1's transformer with modulations of the timestep alone, a VAE of 16 channels.

Lodestone Rock 2025, https://huggingface.co/lodestones/Chroma1-HD. diffusers: `ChromaPipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.flux_transformer import CHROMA, flux_transformer
from diffoundry.exporter.components.t5_text import t5_text_encoder
from diffoundry.exporter.components.vae import VAE_DECODER, VAE_ENCODER
from diffoundry.runtime.pipelines.families.flux import TOKENS

__all__ = ["FAMILY"]

FAMILY = FamilyDeclaration(
    name="chroma",
    components=(
        t5_text_encoder("text_encoder", tokens=TOKENS, mask=True),
        flux_transformer(TOKENS, network=CHROMA),
        VAE_ENCODER,
        VAE_DECODER,
    ),
)
