"""Roles of components: what a network does in a pipeline, whatever its class is called."""

import re

__all__ = [
    "CONNECTOR",
    "CONTROLNET",
    "DENOISER",
    "DENOISER_FOLDERS",
    "DEPTH_ESTIMATOR",
    "IMAGE_ENCODER",
    "PRIOR",
    "ROLES",
    "SAFETY_CHECKER",
    "T2I_ADAPTER",
    "TEXT_ENCODER",
    "UPSCALER",
    "VAE_DECODER",
    "VAE_ENCODER",
    "role_of_folder",
    "tokenizer_folder",
]

TEXT_ENCODER = "text_encoder"
IMAGE_ENCODER = "image_encoder"
DENOISER = "denoiser"
VAE_ENCODER = "vae_encoder"
VAE_DECODER = "vae_decoder"
CONTROLNET = "controlnet"
T2I_ADAPTER = "t2i_adapter"
PRIOR = "prior"
UPSCALER = "upscaler"
SAFETY_CHECKER = "safety_checker"
DEPTH_ESTIMATOR = "depth_estimator"
CONNECTOR = "connector"
"""A small network between two others, such as a projection."""

ROLES = (
    TEXT_ENCODER, IMAGE_ENCODER, DENOISER, VAE_ENCODER, VAE_DECODER, CONTROLNET, T2I_ADAPTER, PRIOR, UPSCALER,
    SAFETY_CHECKER, DEPTH_ESTIMATOR, CONNECTOR,
)  # fmt: skip
"""Every role that a manifest may name."""

DENOISER_FOLDERS = ("unet", "transformer")
"""Folders of denoisers in diffusers' checkpoints."""

_ROLES_OF_FOLDERS = {
    **dict.fromkeys(DENOISER_FOLDERS, DENOISER), "adapter": T2I_ADAPTER, "ip_adapter": CONNECTOR
}  # fmt: skip
"""Folders whose name is not that of the role."""

_NUMBER = re.compile(r"_\d+$")


def role_of_folder(name: str) -> str:
    """Return the role of a component that has only a folder name, as in Optimum's folders and bundles of format 1 to 4.

    Args:
        name: As diffusers names the folder: "unet", "text_encoder_2", "controlnet_1". A name without a role is a
            role of its own, so that no wrapper takes it.
    """
    base = _NUMBER.sub("", name)
    return _ROLES_OF_FOLDERS.get(base, base)


def tokenizer_folder(encoder: str) -> str:
    """Return the folder of a text encoder's tokenizer: "tokenizer_2" of "text_encoder_2", "tokenizer" of "bert".

    Args:
        encoder: As diffusers names the folder of the text encoder.
    """
    return encoder.replace(TEXT_ENCODER, "tokenizer") if TEXT_ENCODER in encoder else "tokenizer"
