"""Replaces a checkpoint's VAE by one from another folder, after checking that it fits."""

from pathlib import Path

from diffoundry.exporter.checkpoints.weight_files import read_json
from diffoundry.exporter.component import Configs
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.exporter.components.vae import VAE_CLASSES
from diffoundry.runtime.errors import CheckpointError

__all__ = ["check_fits", "vae_class"]


def vae_class(folder: str) -> str:
    """Read the class named in a folder's config.json.

    Raises:
        CheckpointError: The folder does not exist, or holds no VAE.
    """
    if not (Path(folder) / "config.json").is_file():
        raise CheckpointError(
            f"--vae: got {folder!r}, expected a folder with config.json and diffusion_pytorch_model.safetensors, as "
            f"diffusers' save_pretrained writes one"
        )
    found = read_json(Path(folder) / "config.json").get("_class_name")
    if found not in VAE_CLASSES:
        raise CheckpointError(f"--vae {folder}: got the class {found!r}, expected {' or '.join(VAE_CLASSES)}")
    return str(found)


def check_fits(folder: str, configs: Configs, own: Path) -> None:
    """Check that another VAE has latents like the checkpoint's own.

    Args:
        folder: Folder of the other VAE.
        configs: Configs of the checkpoint, with the other VAE's.
        own: config.json of the checkpoint's own VAE; without it nothing is compared.

    Raises:
        CheckpointError: It has other channels, or another number of pixels to a latent.
    """
    if not own.is_file():
        return
    forms = []
    for config in (configs["vae"], read_json(own)):
        factor = latent_dims({"vae": config})[0].partition("/")[2]
        forms.append(f"latents of {config.get('latent_channels', 4)} channels, {factor} pixels to a side")
    if forms[0] != forms[1]:
        raise CheckpointError(f"--vae {folder}: got {forms[0]}, expected {forms[1]}, as the checkpoint's own")
