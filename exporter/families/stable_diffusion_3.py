"""Stable Diffusion 3 and 3.5: two CLIP text encoders, T5 (optional), a joint transformer, a VAE of 16 channels.

Esser et al. 2024, https://arxiv.org/abs/2403.03206. diffusers: `StableDiffusion3Pipeline`.
"""

from functools import partial

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.clip_text import PROJECTED, clip_text_encoder
from diffoundry.exporter.components.sd3_controlnet import sd3_controlnet
from diffoundry.exporter.components.sd3_transformer import sd3_transformer
from diffoundry.exporter.components.t5_text import t5_text_encoder
from diffoundry.exporter.components.vae import VAE_DECODER, VAE_ENCODER

__all__ = ["FAMILY"]

_T5_TOKENS = 256
"""Tokens of a prompt: the default of diffusers' `max_sequence_length`."""

FAMILY = FamilyDeclaration(
    name="stable_diffusion_3",
    components=(
        *(
            clip_text_encoder(name, model_classes=(PROJECTED,), hidden_states=True)
            for name in ("text_encoder", "text_encoder_2")
        ),
        t5_text_encoder("text_encoder_3", tokens=_T5_TOKENS, optional=True),
        sd3_transformer(_T5_TOKENS),
        VAE_ENCODER,
        VAE_DECODER,
    ),
    folders=("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3"),
    controlnet=partial(sd3_controlnet, tokens=_T5_TOKENS),
)
