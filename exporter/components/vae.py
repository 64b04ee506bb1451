"""The two halves of a VAE, for each supported class."""

from collections.abc import Callable, Mapping

from diffoundry.exporter.component import Component, ComponentKind, Configs
from diffoundry.exporter.components.autoencoder_kl import describe_decoder, describe_encoder
from diffoundry.exporter.components.autoencoder_tiny import describe_tiny_decoder, describe_tiny_encoder
from diffoundry.runtime.errors import CheckpointError

__all__ = ["VAE_CLASSES", "VAE_DECODER", "VAE_ENCODER"]

VAE_CLASSES = ("AutoencoderKL", "AutoencoderTiny")
"""Supported VAE classes of diffusers."""

_Describe = Callable[[Configs], Component]


def _kind(name: str, describes: Mapping[str, _Describe]) -> ComponentKind:
    def describe(configs: Configs) -> Component:
        found = configs["vae"].get("_class_name", VAE_CLASSES[0])
        if found not in describes:
            raise CheckpointError(
                f"vae/config.json: field '_class_name': got {found!r}, expected {' or '.join(VAE_CLASSES)}"
            )
        return describes[found](configs)

    classes = tuple(f"diffusers:{name}" for name in VAE_CLASSES)
    return ComponentKind(name=name, source="vae", classes=classes, describe=describe)


VAE_ENCODER = _kind("vae_encoder", dict(zip(VAE_CLASSES, (describe_encoder, describe_tiny_encoder), strict=True)))
VAE_DECODER = _kind("vae_decoder", dict(zip(VAE_CLASSES, (describe_decoder, describe_tiny_decoder), strict=True)))
