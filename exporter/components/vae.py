"""The two halves of a VAE, for each supported class and folder."""

from collections.abc import Callable, Mapping

from diffoundry.exporter.component import Component, ComponentKind, Configs
from diffoundry.exporter.components.autoencoder_dc import DC_CLASS, describe_dc_decoder, describe_dc_encoder
from diffoundry.exporter.components.autoencoder_kl import (
    FLUX2_CLASS,
    describe_decoder,
    describe_encoder,
    describe_flux2_decoder,
    describe_flux2_encoder,
)
from diffoundry.exporter.components.autoencoder_tiny import describe_tiny_decoder, describe_tiny_encoder
from diffoundry.exporter.components.qwen_image_21_vae import (
    QWEN_IMAGE_21_VAE,
    describe_qwen_image_21_decoder,
    describe_qwen_image_21_encoder,
)
from diffoundry.exporter.components.qwen_image_vae import (
    QWEN_IMAGE_VAE,
    describe_qwen_image_decoder,
    describe_qwen_image_encoder,
)
from diffoundry.exporter.components.vq_model import VQ_CLASS, describe_vq_decoder, describe_vq_encoder
from diffoundry.runtime.errors import CheckpointError

__all__ = ["VAE_CLASSES", "VAE_DECODER", "VAE_ENCODER", "vae_decoder", "vae_encoder"]

VAE_CLASSES = ("AutoencoderKL", "AutoencoderTiny")
"""Classes of diffusers for a VAE that samples latents around a mean, or has none to sample."""

_Describe = Callable[[Configs, str], Component]

_ENCODERS: Mapping[str, _Describe] = {
    "AutoencoderKL": describe_encoder,
    FLUX2_CLASS: describe_flux2_encoder,
    "AutoencoderTiny": describe_tiny_encoder,
    VQ_CLASS: describe_vq_encoder,
    QWEN_IMAGE_VAE: describe_qwen_image_encoder,
    QWEN_IMAGE_21_VAE: describe_qwen_image_21_encoder,
    DC_CLASS: describe_dc_encoder,
}
_DECODERS: Mapping[str, _Describe] = {
    "AutoencoderKL": describe_decoder,
    FLUX2_CLASS: describe_flux2_decoder,
    "AutoencoderTiny": describe_tiny_decoder,
    VQ_CLASS: describe_vq_decoder,
    QWEN_IMAGE_VAE: describe_qwen_image_decoder,
    QWEN_IMAGE_21_VAE: describe_qwen_image_21_decoder,
    DC_CLASS: describe_dc_decoder,
}


def vae_encoder(source: str = "vae", classes: tuple[str, ...] = VAE_CLASSES) -> ComponentKind:
    """Declare the encoder of a VAE.

    Args:
        source: Folder of the checkpoint: "vae", "vqvae" or "movq".
        classes: Classes of diffusers that the pipeline takes; the first is that of a config without a name.
    """
    return _kind("vae_encoder", source, classes, _ENCODERS)


def vae_decoder(source: str = "vae", classes: tuple[str, ...] = VAE_CLASSES) -> ComponentKind:
    """Declare the decoder of a VAE; arguments as `vae_encoder`."""
    return _kind("vae_decoder", source, classes, _DECODERS)


def _kind(name: str, source: str, classes: tuple[str, ...], describes: Mapping[str, _Describe]) -> ComponentKind:
    def describe(configs: Configs) -> Component:
        found = configs[source].get("_class_name", classes[0])
        if found not in classes:
            raise CheckpointError(
                f"{source}/config.json: field '_class_name': got {found!r}, expected {' or '.join(classes)}"
            )
        return describes[found](configs, source)

    return ComponentKind(
        name=name, source=source, classes=tuple(f"diffusers:{name}" for name in classes), describe=describe
    )


VAE_ENCODER = vae_encoder()
VAE_DECODER = vae_decoder()
