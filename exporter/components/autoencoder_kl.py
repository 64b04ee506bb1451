"""The two halves of AutoencoderKL: images to the moments of latents, latents to images.

AutoencoderKLFlux2 has the same graphs. Its normalization of 2 x 2 latents is applied by the runtime.
"""

from dataclasses import replace

from diffoundry.exporter.component import Call, Component, Configs, read_integer
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.autoencoder_kl_flux2 import MEAN, VARIANCE
from diffoundry.runtime.models.roles import VAE_DECODER, VAE_ENCODER

__all__ = ["FLUX2_CLASS", "describe_decoder", "describe_encoder", "describe_flux2_decoder", "describe_flux2_encoder"]

FLUX2_CLASS = "AutoencoderKLFlux2"


def describe_encoder(configs: Configs, source: str = "vae") -> Component:
    """Describe the encoder: images to the moments of latents."""
    height, width = latent_dims(configs)
    pixels = read_integer(configs, source, "in_channels", 3)
    channels = read_integer(configs, source, "latent_channels", 4)
    factor = parse_size(height).divisor
    return Component(
        name="vae_encoder",
        role=VAE_ENCODER,
        network="AutoencoderKL",
        source=source,
        inputs=(TensorSpec(name="sample", dtype="float32", shape=("batch", pixels, "height", "width")),),
        # Mean and log-variance, concatenated; the pipeline decides how to sample from them.
        outputs=(TensorSpec(name="latent_parameters", dtype="float32", shape=("batch", 2 * channels, height, width)),),
        example={"batch": 2, "height": 9 * factor, "width": 11 * factor},
        call=Call(layers=("encoder", "quant_conv")),
    )


def describe_decoder(configs: Configs, source: str = "vae") -> Component:
    """Describe the decoder: latents to images."""
    height, width = latent_dims(configs)
    pixels = read_integer(configs, source, "out_channels", 3)
    channels = read_integer(configs, source, "latent_channels", 4)
    return Component(
        name="vae_decoder",
        role=VAE_DECODER,
        network="AutoencoderKL",
        source=source,
        inputs=(TensorSpec(name="latent_sample", dtype="float32", shape=("batch", channels, height, width)),),
        outputs=(TensorSpec(name="sample", dtype="float32", shape=("batch", pixels, "height", "width")),),
        example={"batch": 2, height: 9, width: 11},
        call=Call(layers=("post_quant_conv", "decoder")),
    )


def describe_flux2_encoder(configs: Configs, source: str = "vae") -> Component:
    """Describe the encoder of an AutoencoderKLFlux2."""
    return replace(describe_encoder(configs, source), network=FLUX2_CLASS)


def describe_flux2_decoder(configs: Configs, source: str = "vae") -> Component:
    """Describe the decoder of an AutoencoderKLFlux2."""
    return replace(describe_decoder(configs, source), network=FLUX2_CLASS, tables=(MEAN, VARIANCE))
