"""Image variation: Stable Diffusion conditioned on an image by CLIP's image encoder, in one token.

diffusers: `StableDiffusionImageVariationPipeline`.
"""

from dataclasses import replace

from diffoundry.exporter.component import Component, Configs, FamilyDeclaration, read_integer
from diffoundry.exporter.components.clip_vision import IMAGE_ENCODER
from diffoundry.exporter.components.safety_checker import SAFETY_CHECKER
from diffoundry.exporter.components.unet import UNET
from diffoundry.exporter.components.vae import VAE_DECODER, VAE_ENCODER
from diffoundry.runtime.errors import ConfigError

__all__ = ["FAMILY"]


def _describe_unet(configs: Configs) -> Component:
    """Describe the UNet with a condition of exactly one token, as wide as the encoder's output."""
    unet = UNET.describe(configs)
    width = read_integer(configs, "image_encoder", "projection_dim", 512)
    name = "encoder_hidden_states"
    (found,) = (spec.shape[-1] for spec in unet.inputs if spec.name == name)
    if found != width:
        raise ConfigError(
            f"unet/config.json: field 'cross_attention_dim': got {found}, expected {width}, the projection_dim of the "
            f"image_encoder"
        )
    one = [replace(spec, shape=("batch", 1, width)) if spec.name == name else spec for spec in unet.inputs]
    example = {symbol: size for symbol, size in unet.example.items() if symbol != "sequence"}
    return replace(unet, inputs=tuple(one), example=example)


FAMILY = FamilyDeclaration(
    name="image_variation",
    components=(IMAGE_ENCODER, replace(UNET, describe=_describe_unet), VAE_ENCODER, VAE_DECODER, SAFETY_CHECKER),
    folders=("scheduler", "feature_extractor"),
)
