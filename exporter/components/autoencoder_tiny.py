"""The two halves of AutoencoderTiny (TAESD): images to latents and back, without a distribution between them."""

from diffoundry.exporter.component import Call, Component, Configs, read_integer, read_levels
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.models.roles import VAE_DECODER, VAE_ENCODER

__all__ = ["describe_tiny_decoder", "describe_tiny_encoder"]


def describe_tiny_encoder(configs: Configs, source: str = "vae") -> Component:
    """Describe the encoder: images to latents."""
    height, width = _dims(configs, source)
    factor = int(height.partition("/")[2])
    return Component(
        name="vae_encoder",
        role=VAE_ENCODER,
        network="AutoencoderTiny",
        source=source,
        inputs=(
            TensorSpec(
                name="sample", dtype="float32", shape=("batch", _channels(configs, source, "in"), "height", "width")
            ),
        ),
        outputs=(
            TensorSpec(
                name="latents", dtype="float32", shape=("batch", _channels(configs, source, "latent"), height, width)
            ),
        ),
        example={"batch": 2, "height": 9 * factor, "width": 11 * factor},
        call=Call(layers=("encoder",)),
    )


def describe_tiny_decoder(configs: Configs, source: str = "vae") -> Component:
    """Describe the decoder: latents to images."""
    height, width = _dims(configs, source)
    return Component(
        name="vae_decoder",
        role=VAE_DECODER,
        network="AutoencoderTiny",
        source=source,
        inputs=(
            TensorSpec(
                name="latent_sample",
                dtype="float32",
                shape=("batch", _channels(configs, source, "latent"), height, width),
            ),
        ),
        outputs=(
            TensorSpec(
                name="sample", dtype="float32", shape=("batch", _channels(configs, source, "out"), "height", "width")
            ),
        ),
        example={"batch": 2, height: 9, width: 11},
        call=Call(layers=("decoder",)),
    )


def _channels(configs: Configs, source: str, kind: str) -> int:
    return read_integer(configs, source, f"{kind}_channels", 4 if kind == "latent" else 3)


def _dims(configs: Configs, source: str) -> tuple[str, str]:
    """Symbols of the latents' sides. Checks that both halves scale by two between two levels.

    Raises:
        ConfigError: They do not.
    """
    config = configs[source]
    levels = [
        len(read_levels(configs, source, f"{half}_block_out_channels", (64,) * 4)) for half in ("encoder", "decoder")
    ]
    scale = config.get("upsampling_scaling_factor", 2)
    if levels[0] != levels[1] or scale != 2:
        raise ConfigError(
            f"{source}/config.json: got {levels[0]} levels in the encoder, {levels[1]} in the decoder and an "
            f"upsampling_scaling_factor of {scale}, expected as many on both sides and 2; nothing else is supported"
        )
    return latent_dims(configs)
