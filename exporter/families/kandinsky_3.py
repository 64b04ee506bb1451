"""Kandinsky 3: a prompt to images in one stage, with the text encoder of FLAN-UL2.

Arkhipkin et al. 2023, https://arxiv.org/abs/2312.03511. diffusers: `Kandinsky3Pipeline`, `Kandinsky3Img2ImgPipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.kandinsky3_unet import KANDINSKY_3_UNET
from diffoundry.exporter.components.t5_text import t5_text_encoder
from diffoundry.exporter.components.vae import vae_decoder, vae_encoder
from diffoundry.exporter.components.vq_model import VQ_CLASS
from diffoundry.runtime.models.kandinsky3_unet import TOKENS

__all__ = ["FAMILY"]

FAMILY = FamilyDeclaration(
    name="kandinsky_3",
    components=(
        t5_text_encoder("text_encoder", tokens=TOKENS, mask=True, optional=True),
        KANDINSKY_3_UNET,
        vae_encoder("movq", (VQ_CLASS,)),
        vae_decoder("movq", (VQ_CLASS,)),
    ),
)
