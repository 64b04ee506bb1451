"""Size of latents, on which the denoiser and both halves of the VAE must agree."""

from diffoundry.exporter.component import Configs, read_integer, read_levels
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.roles import DENOISER_FOLDERS
from diffoundry.runtime.models.sample_size import read_sample_size

__all__ = ["AUTOENCODERS", "check_latent_channels", "latent_dims", "token_sides", "trained_size"]

AUTOENCODERS = ("vae", "vqvae", "movq")
"""Folders of the network that decodes latents, as diffusers' pipelines name it."""

_MOST_LEVELS = 16
"""Most levels of a VAE, each of which halves the image."""


_LEVELS = {"AutoencoderTiny": 4, "AutoencoderDC": 6}
"""Default of diffusers for the number of levels, by the class of the VAE."""


_MULTIPLES = {"AutoencoderKLQwenImage": (1, 2, 4, 4), "AutoencoderKLQwenImage21": (1, 2, 4, 8, 8)}
"""Default of diffusers for `dim_mult`, which names the levels of these classes."""


def latent_dims(configs: Configs) -> tuple[str, str]:
    """Height and width of latents as symbols of the image's, such as ("height/8", "width/8").

    The VAE halves the image once between two of its levels (diffusers: `vae_scale_factor`, `movq_scale_factor`). A
    checkpoint without one denoises pixels: ("height", "width").
    """
    source = next((name for name in AUTOENCODERS if name in configs), None)
    if source is None:
        return "height", "width"
    vae = configs[source]
    own = "decoder_block_out_channels"  # alone in an AutoencoderDC, and in some AutoencoderTiny
    field = own if own in vae and "block_out_channels" not in vae else "block_out_channels"
    default = (64,) * _LEVELS.get(vae.get("_class_name", ""), 1)
    if vae.get("_class_name") in _MULTIPLES:
        field, default = "dim_mult", _MULTIPLES[vae["_class_name"]]
    levels = read_levels(configs, source, field, default)
    if len(levels) > _MOST_LEVELS:
        raise refuse(f"{source}/config.json", field, list(levels), f"at most {_MOST_LEVELS} levels")
    factor = 2 ** (len(levels) - 1)
    return f"height/{factor}", f"width/{factor}"


def token_sides(configs: Configs, patch: int) -> tuple[str, str]:
    """Return rows and columns of a transformer's tokens as symbols of the image's size, such as ("height/16", ...).

    Args:
        configs: Configs of the checkpoint.
        patch: Latents to a side of a token.
    """
    height, width = (f"{size.symbol}/{size.divisor * patch}" for size in map(parse_size, latent_dims(configs)))
    return height, width


def check_latent_channels(configs: Configs, source: str, channels: int) -> None:
    """Refuse a denoiser whose input has other channels than the VAE's latents.

    Args:
        configs: Configs of the checkpoint.
        source: Folder of the denoiser.
        channels: Channels of its input.

    Raises:
        ConfigError: As said.
    """
    latent = read_integer(configs, "vae", "latent_channels", 4)
    if channels != latent:
        raise refuse(f"{source}/config.json", "in_channels", channels, f"{latent}, the latent_channels of the VAE")


def trained_size(configs: Configs, source: str, dims: tuple[str, str]) -> dict[str, int]:
    """Return the height and width in pixels that a denoiser was trained for, as `Component.usual`.

    Targets find those of a denoiser over latents by its folder, so this is empty for it.

    Args:
        configs: Configs of the checkpoint.
        source: Folder of the denoiser.
        dims: Height and width of its input as symbols of the image's.

    Raises:
        ConfigError: `sample_size` is damaged.
    """
    factors = [parse_size(dim).divisor for dim in dims]
    size = read_sample_size(configs[source], None, f"{source}/config.json")
    if size is None or (source in DENOISER_FOLDERS and factors[0] > 1):
        return {}
    return {"height": size[0] * factors[0], "width": size[1] * factors[1]}
