"""The table of VAE wrappers. Other networks need no table: a family file imports the wrappers that it uses."""

from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.roles import VAE_DECODER

__all__ = ["VAES", "open_vae"]

VAES = {
    "AutoencoderKL": "diffoundry.runtime.models.autoencoder_kl:AutoencoderKL",
    "AutoencoderTiny": "diffoundry.runtime.models.autoencoder_tiny:AutoencoderTiny",
    "VQModel": "diffoundry.runtime.models.vq_model:VQModel",
}
"""Class of the network to "module:attribute" of its wrapper; any family may have any of them."""


def open_vae(session: EngineSession, *, normalize_latents: bool = False) -> AutoencoderKL:
    """Return the wrapper of the bundle's VAE, by the class of its network.

    Args:
        session: The engines.
        normalize_latents: As in `AutoencoderKL`.

    Raises:
        BundleError: The bundle has no VAE decoder, or one of a class that this version does not know.
    """
    network = session.bundle.network(session.bundle.component(VAE_DECODER)) or "AutoencoderKL"
    if network not in VAES:
        raise BundleError(
            f"bundle {session.bundle.root}: got the VAE {network!r}, expected one of {', '.join(VAES)}; "
            f"upgrade diffoundry"
        )
    vae: AutoencoderKL = resolve(VAES[network])(session, normalize_latents=normalize_latents)
    return vae
