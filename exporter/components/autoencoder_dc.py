"""The two halves of AutoencoderDC (DC-AE): images to latents and back, 32 pixels to a latent.

Chen et al. 2024, https://arxiv.org/abs/2410.10733.
"""

from typing import Any

from diffoundry.exporter.component import Call, Component, Configs, read_integer, read_levels
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.models.autoencoder_dc import DC_LEVELS
from diffoundry.runtime.models.roles import VAE_DECODER, VAE_ENCODER

__all__ = ["DC_CLASS", "describe_dc_decoder", "describe_dc_encoder"]

DC_CLASS = "AutoencoderDC"

_CHANNELS = 32
"""Default of diffusers for `latent_channels`."""


def describe_dc_encoder(configs: Configs, source: str) -> Component:
    """Describe the encoder: images to latents."""
    pixels, latents, factor = _shapes(configs, source)
    return Component(
        name="vae_encoder",
        role=VAE_ENCODER,
        inputs=(TensorSpec(name="sample", dtype="float32", shape=pixels),),
        outputs=(TensorSpec(name="latents", dtype="float32", shape=latents),),
        example={"batch": 2, "height": 3 * factor, "width": 5 * factor},
        call=Call(layers=("encoder",)),
        **_common(source, factor),
    )


def describe_dc_decoder(configs: Configs, source: str) -> Component:
    """Describe the decoder: latents to images."""
    pixels, latents, factor = _shapes(configs, source)
    return Component(
        name="vae_decoder",
        role=VAE_DECODER,
        inputs=(TensorSpec(name="latent_sample", dtype="float32", shape=latents),),
        outputs=(TensorSpec(name="sample", dtype="float32", shape=pixels),),
        example={"batch": 2, latents[2]: 3, latents[3]: 5},
        call=Call(layers=("decoder",)),
        **_common(source, factor),
    )


def _common(source: str, factor: int) -> dict[str, Any]:
    """Return the fields that both halves have in common."""
    return {
        "network": DC_CLASS,
        "source": source,
        "sizes": dict.fromkeys(("height", "width"), DimSpec(multiple_of=factor)),
        "wrapper": "diffoundry.exporter.components.autoencoder_dc_module:DCModule",
    }


def _shapes(configs: Configs, source: str) -> tuple[tuple[Any, ...], tuple[Any, ...], int]:
    """Return the shapes of images and latents, and the pixels to a side of a latent.

    Raises:
        ConfigError: The halves have different numbers of levels.
    """
    levels = [
        len(read_levels(configs, source, f"{half}_block_out_channels", DC_LEVELS)) for half in ("encoder", "decoder")
    ]
    if levels[0] != levels[1]:
        raise ConfigError(
            f"{source}/config.json: got {levels[0]} levels in the encoder and {levels[1]} in the decoder, expected as "
            f"many on both sides"
        )
    sides = latent_dims(configs)
    pixels = ("batch", read_integer(configs, source, "in_channels", 3), "height", "width")
    latents = ("batch", read_integer(configs, source, "latent_channels", _CHANNELS), *sides)
    return pixels, latents, parse_size(sides[0]).divisor
