"""The two halves of AutoencoderKLQwenImage21: images with transparency to the moments of latents, and back."""

from diffoundry.exporter.component import Component, Configs, read_integer
from diffoundry.exporter.components.qwen_image_vae import frame_decoder, frame_encoder
from diffoundry.runtime.formats.config_values import refuse

__all__ = ["QWEN_IMAGE_21_VAE", "describe_qwen_image_21_decoder", "describe_qwen_image_21_encoder"]

QWEN_IMAGE_21_VAE = "AutoencoderKLQwenImage21"

_MODULE = "diffoundry.exporter.components.qwen_image_21_vae_module"
_LEVELS = (1, 2, 4, 8, 8)
_HALVINGS = 4
"""The pipeline takes 16 pixels for a latent, whatever the config says. diffusers: `QwenImage21Pipeline.__init__`."""


def describe_qwen_image_21_encoder(configs: Configs, source: str = "vae") -> Component:
    """Describe the encoder: images to the moments of latents."""
    channels = _read_channels(configs, source, "in_channels")
    return frame_encoder(configs, source, QWEN_IMAGE_21_VAE, channels, f"{_MODULE}:QwenImage21Encoder")


def describe_qwen_image_21_decoder(configs: Configs, source: str = "vae") -> Component:
    """Describe the decoder: latents to images."""
    channels = _read_channels(configs, source, "out_channels")
    return frame_decoder(configs, source, QWEN_IMAGE_21_VAE, channels, f"{_MODULE}:QwenImage21Decoder")


def _read_channels(configs: Configs, source: str, pixels: str) -> tuple[int, int]:
    """Return the channels of images and of latents.

    Raises:
        ConfigError: A network of another factor than the pipeline's, or one that diffusers cannot run.
    """
    config, subject = configs[source], f"{source}/config.json"
    levels = config.get("dim_mult", _LEVELS)
    if not isinstance(levels, list | tuple) or len(levels) != _HALVINGS + 1:
        raise refuse(
            subject, "dim_mult", levels, f"a list of {_HALVINGS + 1}, as the pipeline has 16 pixels to a latent"
        )
    times = config.get("temperal_downsample", (False, True, True, True))
    if not isinstance(times, list | tuple) or len(times) != _HALVINGS:
        raise refuse(subject, "temperal_downsample", times, f"a list of {_HALVINGS}, one less than dim_mult")
    for name, nothing in (("attn_scales", []), ("patch_size", None)):
        if (found := config.get(name)) not in (nothing, ()):
            words = "null" if nothing is None else "[]"
            raise refuse(subject, name, found, f"{words}: the pipeline of diffusers cannot run other networks")
    images, latents = (read_integer(configs, source, key, default) for key, default in ((pixels, 4), ("z_dim", 64)))
    return images, latents
