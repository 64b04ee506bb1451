"""Qwen-Image: Qwen 2.5 VL's part for text, a transformer over tokens of 2 x 2 latents, a VAE of videos for one image.

Qwen team 2025, https://arxiv.org/abs/2508.02324. diffusers: `QwenImagePipeline`.
"""

from functools import partial

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.causal_lm_text import QWEN_2_5_VL, QWEN_3_VL, causal_text_encoder
from diffoundry.exporter.components.qwen3_vision import qwen3_image_encoder
from diffoundry.exporter.components.qwen_image_21_transformer import qwen_image_21_transformer
from diffoundry.exporter.components.qwen_image_21_vae import QWEN_IMAGE_21_VAE
from diffoundry.exporter.components.qwen_image_controlnet import qwen_image_controlnet
from diffoundry.exporter.components.qwen_image_transformer import qwen_image_transformer
from diffoundry.exporter.components.qwen_image_vae import QWEN_IMAGE_VAE
from diffoundry.exporter.components.qwen_vision import qwen_image_encoder
from diffoundry.exporter.components.vae import vae_decoder, vae_encoder
from diffoundry.runtime.models.qwen_image_transformer_2d import LAYERS
from diffoundry.runtime.pipelines.families.qwen_image import DROPPED, TOKENS
from diffoundry.runtime.pipelines.families.qwen_image_21 import SYSTEM_MESSAGE
from diffoundry.runtime.pipelines.families.qwen_image_21 import TOKENS as VERSION_2_1_TOKENS
from diffoundry.runtime.pipelines.families.qwen_image_edit import EDIT_TOKENS

__all__ = ["EDIT", "EDIT_PLUS", "FAMILY", "LAYERED", "VERSION_2_1"]

_VAES = (QWEN_IMAGE_VAE,)

FAMILY = FamilyDeclaration(
    name="qwen_image",
    components=(
        causal_text_encoder(model_classes=QWEN_2_5_VL, hidden_states=(-1,), tokens=DROPPED + TOKENS),
        qwen_image_transformer(TOKENS),
        vae_encoder(classes=_VAES),
        vae_decoder(classes=_VAES),
    ),
    controlnet=partial(qwen_image_controlnet, tokens=TOKENS),
)


LAYERED = FamilyDeclaration(
    name="qwen_image_layered",
    components=(
        causal_text_encoder(model_classes=QWEN_2_5_VL, hidden_states=(-1,), tokens=DROPPED + TOKENS),
        qwen_image_transformer(TOKENS, reference=True, layers=LAYERS + 1),
        vae_encoder(classes=_VAES),
        vae_decoder(classes=_VAES),
    ),
)


VERSION_2_1 = FamilyDeclaration(
    name="qwen_image_21",
    components=(
        causal_text_encoder(
            model_classes=QWEN_3_VL,
            hidden_states=(-1,),
            tokens=VERSION_2_1_TOKENS,
            chat={"system": SYSTEM_MESSAGE},
            images=True,
            folder="processor",
        ),
        qwen3_image_encoder(VERSION_2_1_TOKENS),
        qwen_image_21_transformer(VERSION_2_1_TOKENS),
        vae_encoder(classes=(QWEN_IMAGE_21_VAE,)),
        vae_decoder(classes=(QWEN_IMAGE_21_VAE,)),
    ),
    folders=("scheduler", "processor"),
)


def _edit(name: str, windows: int) -> FamilyDeclaration:
    return FamilyDeclaration(
        name=name,
        components=(
            causal_text_encoder(model_classes=QWEN_2_5_VL, hidden_states=(-1,), tokens=EDIT_TOKENS, images=True),
            qwen_image_encoder(windows),
            qwen_image_transformer(EDIT_TOKENS, reference=True),
            vae_encoder(classes=_VAES),
            vae_decoder(classes=_VAES),
        ),
        folders=("scheduler", "tokenizer", "processor"),
    )


EDIT = _edit("qwen_image_edit", 100)
EDIT_PLUS = _edit("qwen_image_edit_plus", 16)
