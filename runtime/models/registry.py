"""The tables of VAE and ControlNet wrappers. A family file imports the wrappers of its other networks."""

from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.controlnet import ControlNetModel
from diffoundry.runtime.models.roles import VAE_DECODER

__all__ = ["CONTROLNETS", "VAES", "open_controlnet", "open_vae"]

VAES = {
    "AutoencoderKL": "diffoundry.runtime.models.autoencoder_kl:AutoencoderKL",
    "AutoencoderDC": "diffoundry.runtime.models.autoencoder_dc:AutoencoderDC",
    "AutoencoderKLFlux2": "diffoundry.runtime.models.autoencoder_kl_flux2:AutoencoderKLFlux2",
    "AutoencoderKLQwenImage": "diffoundry.runtime.models.autoencoder_kl_qwen_image:AutoencoderKLQwenImage",
    "AutoencoderKLQwenImage21": "diffoundry.runtime.models.autoencoder_kl_qwen_image_21:AutoencoderKLQwenImage21",
    "AutoencoderTiny": "diffoundry.runtime.models.autoencoder_tiny:AutoencoderTiny",
    "VQModel": "diffoundry.runtime.models.vq_model:VQModel",
}
"""Class of the network to "module:attribute" of its wrapper; any family may have any of them."""

CONTROLNETS = {
    "ControlNetModel": "diffoundry.runtime.models.controlnet:ControlNetModel",
    "FluxControlNetModel": "diffoundry.runtime.models.flux_controlnet:FluxControlNetModel",
    "HunyuanDiT2DControlNetModel": "diffoundry.runtime.models.hunyuan_dit_controlnet:HunyuanDiT2DControlNetModel",
    "QwenImageControlNetModel": "diffoundry.runtime.models.qwen_image_controlnet:QwenImageControlNetModel",
    "SanaControlNetModel": "diffoundry.runtime.models.sana_transformer_2d:SanaControlNetModel",
    "SD3ControlNetModel": "diffoundry.runtime.models.sd3_controlnet:SD3ControlNetModel",
    "ZImageControlNetModel": "diffoundry.runtime.models.z_image_controlnet:ZImageControlNetModel",
}
"""The same of ControlNets."""


def open_controlnet(session: EngineSession, component: str) -> ControlNetModel:
    """Return the wrapper of a ControlNet, by the class of its network.

    Raises:
        BundleError: The class is of another version.
    """
    network = session.bundle.network(component) or "ControlNetModel"
    if network not in CONTROLNETS:
        raise BundleError(
            f"bundle {session.bundle.root}: got the ControlNet {network!r}, expected one of {', '.join(CONTROLNETS)}; "
            f"upgrade diffoundry"
        )
    net: ControlNetModel = resolve(CONTROLNETS[network])(session, component)
    return net


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
