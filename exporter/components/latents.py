"""Size of latents, on which the denoiser and both halves of the VAE must agree."""

from diffoundry.exporter.component import Configs, read_levels
from diffoundry.runtime.formats.config_values import refuse

__all__ = ["AUTOENCODERS", "latent_dims"]

AUTOENCODERS = ("vae", "vqvae", "movq")
"""Folders of the network that decodes latents, as diffusers' pipelines name it."""

_MOST_LEVELS = 16
"""Most levels of a VAE, each of which halves the image."""


def latent_dims(configs: Configs) -> tuple[str, str]:
    """Height and width of latents as symbols of the image's, such as ("height/8", "width/8").

    The VAE halves the image once between two of its levels (diffusers: `vae_scale_factor`, `movq_scale_factor`). A
    checkpoint without one denoises pixels: ("height", "width").
    """
    source = next((name for name in AUTOENCODERS if name in configs), None)
    if source is None:
        return "height", "width"
    vae = configs[source]
    own = "decoder_block_out_channels"  # an AutoencoderTiny that was not written by diffusers may have these alone
    field = own if own in vae and "block_out_channels" not in vae else "block_out_channels"
    default = (64,) * 4 if vae.get("_class_name") == "AutoencoderTiny" else (64,)
    levels = read_levels(configs, source, field, default)
    if len(levels) > _MOST_LEVELS:
        raise refuse(f"{source}/config.json", field, list(levels), f"at most {_MOST_LEVELS} levels")
    factor = 2 ** (len(levels) - 1)
    return f"height/{factor}", f"width/{factor}"
