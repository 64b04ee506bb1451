"""AuraFlow: Pile-T5, a transformer over latents, a VAE of 4 channels.

Cloneofsimo and others 2024, https://blog.fal.ai/auraflow. diffusers: `AuraFlowPipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.auraflow_transformer import auraflow_transformer
from diffoundry.exporter.components.t5_text import UMT5, t5_text_encoder
from diffoundry.exporter.components.vae import vae_decoder
from diffoundry.runtime.pipelines.families.auraflow import TOKENS

__all__ = ["FAMILY"]

FAMILY = FamilyDeclaration(
    name="auraflow",
    components=(
        t5_text_encoder("text_encoder", tokens=TOKENS, mask=True, network=UMT5),
        auraflow_transformer(TOKENS),
        vae_decoder(),
    ),
)
