"""Opens one network in one safetensors file, in the names of diffusers or of the original code, without a config."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from diffoundry.exporter.checkpoints.link_file import link_file
from diffoundry.exporter.checkpoints.single_file.architectures import FilePart
from diffoundry.exporter.checkpoints.weight_files import PICKLES
from diffoundry.exporter.checkpoints.weight_headers import check_types, open_header
from diffoundry.exporter.checkpoints.weight_sources import FileWeights, WeightSource
from diffoundry.exporter.component import Config
from diffoundry.exporter.configs.assemble import scratch_folder
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.safetensors import Safetensors

__all__ = ["OutsideNetwork", "open_component_file", "place_network", "starts_with"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OutsideNetwork:
    """A network from elsewhere than the checkpoint's folder.

    Attributes:
        folder: Folder with its config.json.
        file: Its weights in a single file; None for weights in the folder.
    """

    folder: Path
    file: WeightSource | None = None


def open_component_file(option: str, text: str) -> Safetensors:
    """Read the header of the file that an option names.

    Raises:
        CheckpointError: It is pickled, damaged or quantized.
    """
    path = Path(text)
    if path.suffix in PICKLES:
        raise CheckpointError(
            f"{option}: {path} is a pickled file, which can run code when read, and is refused; expected .safetensors; "
            f"rewrite a file that you trust with 'diffoundry convert {path} -o NEW.safetensors'"
        )
    try:
        file = open_header(path)
        check_types(path, file.entries)
    except CheckpointError as error:
        raise CheckpointError(f"{option}: {error}") from error
    return file


def starts_with(file: Safetensors, *beginnings: str) -> str | None:
    """Return the first of some beginnings that a tensor's name has."""
    return next((text for text in beginnings if any(name.startswith(text) for name in file)), None)


def place_network(file: Safetensors, source: str, config: Config, part: FilePart | None) -> OutsideNetwork:
    """Make a folder with the config of a network, and find its weights.

    Args:
        file: The opened file.
        source: The network's folder in a checkpoint.
        config: The network's config.json.
        part: Position of the network under original names; None for the names of diffusers.
    """
    folder = Path(tempfile.mkdtemp(dir=scratch_folder())) / source
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
    if part is not None:
        weights = FileWeights(folder=folder, file=file, part=part, owner=str(file.path), own=True)
        return OutsideNetwork(folder=folder, file=weights)
    link_file(file.path, folder / "diffusion_pytorch_model.safetensors")
    return OutsideNetwork(folder=folder)
