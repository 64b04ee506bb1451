"""Hunyuan-DiT: a bilingual BERT, mT5, a transformer over latents, the VAE of Stable Diffusion XL.

Li et al. 2024, https://arxiv.org/abs/2405.08748. diffusers: `HunyuanDiTPipeline`, `HunyuanDiTControlNetPipeline`,
`HunyuanDiTPAGPipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.bert_text import bert_text_encoder
from diffoundry.exporter.components.hunyuan_dit import hunyuan_dit_controlnet, hunyuan_dit_transformer
from diffoundry.exporter.components.safety_checker import SAFETY_CHECKER
from diffoundry.exporter.components.t5_text import t5_text_encoder
from diffoundry.exporter.components.vae import VAE_ENCODER, vae_decoder
from diffoundry.runtime.models.hunyuan_dit_2d import BERT_TOKENS, T5_TOKENS

__all__ = ["FAMILY", "PERTURBED"]


def _family(name: str, *, perturbs: bool) -> FamilyDeclaration:
    return FamilyDeclaration(
        name=name,
        components=(
            bert_text_encoder("text_encoder", tokens=BERT_TOKENS),
            t5_text_encoder("text_encoder_2", tokens=T5_TOKENS, mask=True),
            hunyuan_dit_transformer(perturbs=perturbs),
            vae_decoder(),
            SAFETY_CHECKER,
        ),
        folders=("scheduler", "tokenizer", "tokenizer_2", "feature_extractor"),
        controlnet=hunyuan_dit_controlnet,
        controlnet_components=(VAE_ENCODER,),
    )


FAMILY = _family("hunyuan_dit", perturbs=False)
PERTURBED = _family("hunyuan_dit_pag", perturbs=True)
