"""Opens the VAE of --vae, a folder or a single file, and checks that it fits the checkpoint."""

from pathlib import Path

from diffoundry.exporter.checkpoints.component_file import (
    OutsideNetwork,
    open_component_file,
    place_network,
    starts_with,
)
from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.exporter.checkpoints.single_file.architectures import FilePart
from diffoundry.exporter.checkpoints.single_file.detect import describe_tensors
from diffoundry.exporter.component import Config, Configs
from diffoundry.exporter.components.defaults import complete_config
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.exporter.components.vae import VAE_CLASSES
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.recognize import describe_link
from diffoundry.runtime.formats.safetensors import Safetensors

__all__ = ["check_fits", "open_vae", "vae_class"]

_KL, _TINY = VAE_CLASSES


def open_vae(text: str, own: Path) -> OutsideNetwork:
    """Open a VAE.

    Args:
        text: Folder in diffusers' layout, or a safetensors file in the names of diffusers or of the original code.
        own: config.json of the checkpoint's own VAE, which is taken for an AutoencoderKL in a single file.

    Raises:
        CheckpointError: There is no VAE of a known class, or no config for it.
    """
    if Path(text).is_file():
        return _open_file(open_component_file("--vae", text), own)
    link = describe_link(Path(text))
    if link is not None:
        raise CheckpointError(f"--vae: {text}: {link}")
    if not (Path(text) / "config.json").is_file():
        raise CheckpointError(
            f"--vae: got {text!r}, expected a .safetensors file with a VAE, or a folder with config.json and "
            f"diffusion_pytorch_model.safetensors, as diffusers' save_pretrained writes one"
        )
    found = vae_class(Path(text))
    if found not in VAE_CLASSES:
        raise CheckpointError(f"--vae {text}: got the class {found!r}, expected {' or '.join(VAE_CLASSES)}")
    return OutsideNetwork(folder=Path(text))


def vae_class(folder: Path) -> str:
    """Read the class that a VAE's config.json names; an AutoencoderKL where it names none."""
    return str(read_json(folder / "config.json").get("_class_name", _KL))


def _open_file(file: Safetensors, own: Path) -> OutsideNetwork:
    if starts_with(file, "encoder.layers.", "decoder.layers."):
        return place_network(file, "vae", _tiny_config(file), None)
    prefix = starts_with(file, "first_stage_model.", "vae.") or ""
    if starts_with(file, f"{prefix}encoder.down.", f"{prefix}decoder.up."):
        part = FilePart(source="vae", title="VAE", layout="vae", prefixes=(prefix,))
        return place_network(file, "vae", _own_config(file.path, own), part)
    if starts_with(file, "encoder.down_blocks.", "decoder.up_blocks."):
        return place_network(file, "vae", _own_config(file.path, own), None)
    raise CheckpointError(f"--vae {file.path}: {describe_tensors(file.entries)}; expected a VAE")


def _tiny_config(file: Safetensors) -> Config:
    """Return the config of an AutoencoderTiny of the usual widths."""
    entry = file.entries.get("decoder.layers.0.weight")
    channels = entry.shape[1] if entry is not None and len(entry.shape) == 4 else 4
    return complete_config({"latent_channels": channels}, _TINY)


def _own_config(path: Path, own: Path) -> Config:
    found = read_json(own) if own.is_file() else {"_class_name": None}
    if found.get("_class_name", _KL) != _KL:
        raise CheckpointError(
            f"--vae {path}: got an {_KL} without config.json, and the checkpoint has none to take its config from; "
            f"pass a folder in diffusers' layout"
        )
    return complete_config(found, _KL)


def check_fits(text: str, configs: Configs, own: Path) -> None:
    """Check that another VAE has latents like the checkpoint's own.

    Args:
        text: The other VAE, as the user named it.
        configs: Configs of the checkpoint, with the other VAE's.
        own: config.json of the checkpoint's own VAE; without it nothing is compared.

    Raises:
        CheckpointError: It has other channels, or another number of pixels to a latent.
    """
    if not own.is_file():
        return
    forms = []
    for config in (configs["vae"], complete_config(read_json(own), vae_class(own.parent))):
        factor = latent_dims({"vae": config})[0].partition("/")[2]
        forms.append(f"latents of {config.get('latent_channels', 4)} channels, {factor} pixels to a side")
    if forms[0] != forms[1]:
        raise CheckpointError(f"--vae {text}: got {forms[0]}, expected {forms[1]}, as the checkpoint's own")
