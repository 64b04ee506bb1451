"""FLUX.1: CLIP's pooled vector, T5, a transformer over tokens of 2 x 2 latents, a VAE of 16 channels.

Black Forest Labs 2024, https://github.com/black-forest-labs/flux. diffusers: `FluxPipeline`.
"""

from dataclasses import replace
from functools import partial

from diffoundry.exporter.component import ComponentKind, FamilyDeclaration
from diffoundry.exporter.components.clip_text import clip_text_encoder
from diffoundry.exporter.components.flux_controlnet import flux_controlnet
from diffoundry.exporter.components.flux_transformer import flux_transformer
from diffoundry.exporter.components.redux_image_encoder import REDUX_IMAGE_ENCODER
from diffoundry.exporter.components.siglip_vision import siglip_image_encoder
from diffoundry.exporter.components.t5_text import t5_text_encoder
from diffoundry.exporter.components.vae import VAE_DECODER, VAE_ENCODER
from diffoundry.runtime.pipelines.families.flux import TOKENS

__all__ = ["CONTROL", "FAMILY", "FILL", "KONTEXT", "REDUX"]

_TEXT_ENCODERS = clip_text_encoder(), t5_text_encoder("text_encoder_2", tokens=TOKENS)


def _family(name: str, transformer: ComponentKind) -> FamilyDeclaration:
    return FamilyDeclaration(
        name=name,
        components=(
            *_TEXT_ENCODERS,
            transformer,
            VAE_ENCODER,
            VAE_DECODER,
        ),
        folders=("scheduler", "tokenizer", "tokenizer_2"),
        controlnet=partial(flux_controlnet, tokens=TOKENS),
    )


FAMILY = _family("flux", flux_transformer(TOKENS))
KONTEXT = _family("flux_kontext", flux_transformer(TOKENS, reference=True))
CONTROL = _family("flux_control", flux_transformer(TOKENS, lambda latent, _factor: latent))
FILL = _family("flux_fill", flux_transformer(TOKENS, lambda latent, factor: latent + factor**2))

REDUX = FamilyDeclaration(
    name="flux_redux",
    components=(
        *(replace(encoder, optional=True) for encoder in _TEXT_ENCODERS),
        siglip_image_encoder(),
        REDUX_IMAGE_ENCODER,
    ),
    folders=("tokenizer", "tokenizer_2", "feature_extractor"),
)
