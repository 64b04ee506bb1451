"""PixArt-Alpha and PixArt-Sigma: T5, a transformer over latents, a VAE of 4 channels.

Chen et al. 2023 and 2024, https://arxiv.org/abs/2310.00426 and https://arxiv.org/abs/2403.04692. diffusers:
`PixArtAlphaPipeline`, `PixArtSigmaPipeline`, `PixArtSigmaPAGPipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.pixart_transformer import pixart_transformer
from diffoundry.exporter.components.t5_text import t5_text_encoder
from diffoundry.exporter.components.vae import vae_decoder
from diffoundry.runtime.pipelines.systems.pixart_inputs import ALPHA_TOKENS, SIGMA_TOKENS

__all__ = ["ALPHA", "SIGMA", "SIGMA_PAG"]


def _family(name: str, tokens: int, *, perturbs: bool = False) -> FamilyDeclaration:
    return FamilyDeclaration(
        name=name,
        components=(
            t5_text_encoder("text_encoder", tokens=tokens, mask=True, optional=True),
            pixart_transformer(tokens, perturbs=perturbs),
            vae_decoder(),
        ),
    )


ALPHA = _family("pixart_alpha", ALPHA_TOKENS)
SIGMA = _family("pixart_sigma", SIGMA_TOKENS)
SIGMA_PAG = _family("pixart_sigma_pag", SIGMA_TOKENS, perturbs=True)
