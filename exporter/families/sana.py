"""Sana and Sana-Sprint: Gemma 2, a transformer with linear attention, and a VAE of 32 pixels to a latent.

Xie et al. 2024, https://arxiv.org/abs/2410.10629; Sana-Sprint: Chen et al. 2025, https://arxiv.org/abs/2503.09641.
diffusers: `SanaPipeline`, `SanaControlNetPipeline`, `SanaPAGPipeline`, `SanaSprintPipeline`,
`SanaSprintImg2ImgPipeline`.
"""

from functools import partial

from diffoundry.exporter.component import ComponentKind, FamilyDeclaration
from diffoundry.exporter.components.autoencoder_dc import DC_CLASS
from diffoundry.exporter.components.causal_lm_text import GEMMA_2, causal_text_encoder
from diffoundry.exporter.components.sana_transformer import sana_controlnet, sana_transformer
from diffoundry.exporter.components.vae import vae_decoder, vae_encoder
from diffoundry.runtime.pipelines.systems.sana_inputs import ENCODER_TOKENS, TOKENS

__all__ = ["FAMILY", "PERTURBED", "SPRINT"]

_CLASSES = (DC_CLASS,)
_DECODER, _ENCODER = vae_decoder(classes=_CLASSES), vae_encoder(classes=_CLASSES)


def _family(name: str, *components: ComponentKind) -> FamilyDeclaration:
    text_encoder = causal_text_encoder(model_classes=GEMMA_2, hidden_states=(-1,), tokens=ENCODER_TOKENS, optional=True)
    return FamilyDeclaration(
        name=name,
        components=(text_encoder, *components, _DECODER),
        controlnet=partial(sana_controlnet, tokens=TOKENS),
        controlnet_components=(_ENCODER,),
    )


FAMILY = _family("sana", sana_transformer(TOKENS))
PERTURBED = _family("sana_pag", sana_transformer(TOKENS, perturbed=True))
SPRINT = _family("sana_sprint", sana_transformer(TOKENS, guidance=True), _ENCODER)
