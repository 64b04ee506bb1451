"""VQ-Diffusion: a text encoder, a transformer over codes, and the VQModel whose codes they are.

Gu et al. 2021, https://arxiv.org/abs/2111.14822. diffusers: `VQDiffusionPipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.clip_text import clip_text_encoder
from diffoundry.exporter.components.sampling_embeddings import SAMPLING_EMBEDDINGS
from diffoundry.exporter.components.vae import vae_decoder
from diffoundry.exporter.components.vq_diffusion_transformer import VQ_DIFFUSION_TRANSFORMER
from diffoundry.exporter.components.vq_model import VQ_CLASS

__all__ = ["FAMILY"]

FAMILY = FamilyDeclaration(
    name="vq_diffusion",
    components=(
        clip_text_encoder(),
        SAMPLING_EMBEDDINGS,
        VQ_DIFFUSION_TRANSFORMER,
        vae_decoder("vqvae", (VQ_CLASS,)),
    ),
)
