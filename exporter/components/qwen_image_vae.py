"""The two halves of AutoencoderKLQwenImage for a single image: images to the moments of latents, latents to images."""

from diffoundry.exporter.component import Component, Configs, read_integer
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.roles import VAE_DECODER, VAE_ENCODER

__all__ = [
    "QWEN_IMAGE_VAE",
    "describe_qwen_image_decoder",
    "describe_qwen_image_encoder",
    "frame_decoder",
    "frame_encoder",
]

QWEN_IMAGE_VAE = "AutoencoderKLQwenImage"

_MODULE = "diffoundry.exporter.components.qwen_image_vae_module"


def describe_qwen_image_encoder(configs: Configs, source: str = "vae") -> Component:
    """Describe the encoder: images to the moments of latents."""
    _check(configs, source)
    return frame_encoder(configs, source, QWEN_IMAGE_VAE, _channels(configs, source), f"{_MODULE}:QwenImageEncoder")


def describe_qwen_image_decoder(configs: Configs, source: str = "vae") -> Component:
    """Describe the decoder: latents to images."""
    _check(configs, source)
    return frame_decoder(configs, source, QWEN_IMAGE_VAE, _channels(configs, source), f"{_MODULE}:QwenImageDecoder")


def frame_encoder(configs: Configs, source: str, network: str, channels: tuple[int, int], wrapper: str) -> Component:
    """Describe the encoder of a VAE of videos for a single image.

    Args:
        configs: Of the checkpoint.
        source: Folder of the VAE.
        network: Its class in diffusers.
        channels: Of images and of latents.
        wrapper: As in `Component`.
    """
    (pixels, latents), (height, width) = channels, latent_dims(configs)
    factor = parse_size(height).divisor
    return Component(
        name="vae_encoder",
        role=VAE_ENCODER,
        network=network,
        source=source,
        inputs=(TensorSpec(name="sample", dtype="float32", shape=("batch", pixels, "height", "width")),),
        outputs=(TensorSpec(name="latent_parameters", dtype="float32", shape=("batch", 2 * latents, height, width)),),
        example={"batch": 2, "height": 9 * factor, "width": 11 * factor},
        wrapper=wrapper,
    )


def frame_decoder(configs: Configs, source: str, network: str, channels: tuple[int, int], wrapper: str) -> Component:
    """Describe the decoder of a VAE of videos for a single image; arguments as `frame_encoder`."""
    (pixels, latents), (height, width) = channels, latent_dims(configs)
    return Component(
        name="vae_decoder",
        role=VAE_DECODER,
        network=network,
        source=source,
        inputs=(TensorSpec(name="latent_sample", dtype="float32", shape=("batch", latents, height, width)),),
        outputs=(TensorSpec(name="sample", dtype="float32", shape=("batch", pixels, "height", "width")),),
        example={"batch": 2, height: 9, width: 11},
        wrapper=wrapper,
    )


def _channels(configs: Configs, source: str) -> tuple[int, int]:
    pixels, latents = (
        read_integer(configs, source, key, default) for key, default in (("input_channels", 3), ("z_dim", 16))
    )
    return pixels, latents


def _check(configs: Configs, source: str) -> None:
    """Refuse a network whose pixels to a latent diffusers takes for another number, or which it cannot run.

    Raises:
        ConfigError: As said.
    """
    config, subject = configs[source], f"{source}/config.json"
    halvings = len(config.get("dim_mult", (1, 2, 4, 4))) - 1
    times = config.get("temperal_downsample", (False, True, True))
    if not isinstance(times, list | tuple) or len(times) != halvings:
        raise refuse(subject, "temperal_downsample", times, f"a list of {halvings}, one less than dim_mult")
    if config.get("attn_scales"):
        raise refuse(subject, "attn_scales", config["attn_scales"], "[]: diffusers cannot run other networks")
