"""The two halves of VQModel: images to latents, quantized latents to images. The runtime quantizes between them.

van den Oord et al. 2017, https://arxiv.org/abs/1711.00937; MoVQ: Zheng et al. 2022, https://arxiv.org/abs/2209.09002.
"""

from diffoundry.exporter.component import Call, Component, Configs, read_integer
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import shorten
from diffoundry.runtime.models.roles import VAE_DECODER, VAE_ENCODER
from diffoundry.runtime.models.vq_model import CODEBOOK

__all__ = ["VQ_CLASS", "describe_vq_decoder", "describe_vq_encoder"]

VQ_CLASS = "VQModel"

_NORMS = ("group", "spatial")


def describe_vq_encoder(configs: Configs, source: str) -> Component:
    """Describe the encoder: images to latents before quantization."""
    height, width = latent_dims(configs)
    pixels = read_integer(configs, source, "in_channels", 3)
    factor = parse_size(height).divisor
    return Component(
        name="vae_encoder",
        role=VAE_ENCODER,
        network=VQ_CLASS,
        source=source,
        inputs=(TensorSpec(name="sample", dtype="float32", shape=("batch", pixels, "height", "width")),),
        outputs=(
            TensorSpec(name="latents", dtype="float32", shape=("batch", _channels(configs, source), height, width)),
        ),
        example={"batch": 2, "height": 9 * factor, "width": 11 * factor},
        call=Call(layers=("encoder", "quant_conv")),
    )


def describe_vq_decoder(configs: Configs, source: str) -> Component:
    """Describe the decoder: quantized latents, or those that stay as they are, to images.

    Raises:
        ConfigError: A normalization that is not known.
    """
    height, width = latent_dims(configs)
    norm = configs[source].get("norm_type", _NORMS[0])
    if norm not in _NORMS:
        raise ConfigError(
            f"{source}/config.json: field 'norm_type': got {shorten(norm)}, expected {' or '.join(_NORMS)}"
        )
    return Component(
        name="vae_decoder",
        role=VAE_DECODER,
        network=VQ_CLASS,
        source=source,
        inputs=(
            TensorSpec(
                name="latent_sample", dtype="float32", shape=("batch", _channels(configs, source), height, width)
            ),
        ),
        outputs=(
            TensorSpec(
                name="sample",
                dtype="float32",
                shape=("batch", read_integer(configs, source, "out_channels", 3), "height", "width"),
            ),
        ),
        example={"batch": 2, height: 9, width: 11},
        tables=(CODEBOOK,),
        wrapper="diffoundry.exporter.components.vq_model_module:VQDecoder",
    )


def _channels(configs: Configs, source: str) -> int:
    """Read the width of a code, which is that of latents outside the network."""
    if configs[source].get("vq_embed_dim") is not None:
        return read_integer(configs, source, "vq_embed_dim", None)
    return read_integer(configs, source, "latent_channels", 3)
