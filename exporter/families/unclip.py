"""unCLIP, as Karlo trained it: a decoder of image embeddings into 64 pixels, and two networks that enlarge them.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125. diffusers: `UnCLIPPipeline`, whose prior makes the embedding from
a prompt, and `UnCLIPImageVariationPipeline`, which encodes an image.
"""

from dataclasses import replace

from diffoundry.exporter.component import Component, ComponentKind, Configs, FamilyDeclaration, read_integer
from diffoundry.exporter.components.clip_text import PROJECTED, clip_text_encoder
from diffoundry.exporter.components.clip_vision import IMAGE_ENCODER
from diffoundry.exporter.components.prior_transformer import prior_transformer
from diffoundry.exporter.components.unclip_text_proj import UNCLIP_TEXT_PROJ
from diffoundry.exporter.components.unet import unet_2d_condition
from diffoundry.exporter.components.unet_2d import unet_2d
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.models.roles import UPSCALER

__all__ = ["FAMILY", "VARIATION"]

_FIRST, _LAST = "super_res_first", "super_res_last"


def _small_dims(configs: Configs) -> tuple[str, str]:
    """Return the sides of the decoder's image as parts of those of the whole image.

    Raises:
        ConfigError: The whole image is not a multiple of it.
    """
    small, large = (read_integer(configs, name, "sample_size", None) for name in ("decoder", _FIRST))
    if large % small:
        raise ConfigError(
            f"{_FIRST}/config.json: field 'sample_size': got {large}, expected a multiple of {small}, the sample_size "
            f"of the decoder"
        )
    return f"height/{large // small}", f"width/{large // small}"


def _decoder() -> ComponentKind:
    kind = unet_2d_condition("decoder", dims=_small_dims, feeds=("class_labels",), attention_mask=True)

    def describe(configs: Configs) -> Component:
        extra = read_integer(configs, "text_proj", "clip_extra_context_tokens", 4)
        text = read_integer(configs, "text_encoder", "max_position_embeddings", 77)
        return replace(kind.describe(configs), usual={"sequence": text + extra})

    return replace(kind, describe=describe)


_COMPONENTS = (
    clip_text_encoder(model_classes=(PROJECTED,)),
    UNCLIP_TEXT_PROJ,
    _decoder(),
    *(unet_2d(name, role=UPSCALER, dims=lambda _: ("height", "width")) for name in (_FIRST, _LAST)),
)

FAMILY = FamilyDeclaration(
    name="unclip",
    components=(prior_transformer(), *_COMPONENTS),
    folders=("prior_scheduler", "decoder_scheduler", "super_res_scheduler", "tokenizer"),
)

VARIATION = FamilyDeclaration(
    name="unclip_image_variation",
    components=(IMAGE_ENCODER, *_COMPONENTS),
    folders=("decoder_scheduler", "super_res_scheduler", "tokenizer", "feature_extractor"),
)
