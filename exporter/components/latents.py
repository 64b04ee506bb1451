"""Size of latents, on which the denoiser and both halves of the VAE must agree."""

from diffoundry.exporter.component import Configs, read_field

__all__ = ["latent_dims"]


def latent_dims(configs: Configs) -> tuple[str, str]:
    """Height and width of latents as symbols of the image's, such as ("height/8", "width/8").

    The VAE halves the image once between two of its levels (diffusers: `vae_scale_factor`).
    """
    vae = configs["vae"]
    own = "decoder_block_out_channels"  # an AutoencoderTiny that was not written by diffusers may have these alone
    field = own if own in vae and "block_out_channels" not in vae else "block_out_channels"
    factor = 2 ** (len(read_field(configs, "vae", field, list)) - 1)
    return f"height/{factor}", f"width/{factor}"
