"""Finds the weights of every network of a checkpoint, and reads the headers of their files."""

from collections.abc import Collection, Mapping
from pathlib import Path

from diffoundry.exporter.checkpoints.component_file import OutsideNetwork
from diffoundry.exporter.checkpoints.ip_adapter_weights import IPAdapterWeights
from diffoundry.exporter.checkpoints.single_file import SingleFile
from diffoundry.exporter.checkpoints.weight_headers import open_weights
from diffoundry.exporter.checkpoints.weight_sources import FileWeights, FolderWeights, RandomWeights, WeightSource
from diffoundry.exporter.component import Configs
from diffoundry.runtime.errors import CheckpointError

__all__ = ["find_sources"]


def find_sources(
    root: Path,
    outside: Mapping[str, OutsideNetwork],
    libraries: Mapping[str, str],
    configs: Configs,
    *,
    seed: int | None = None,
    file: SingleFile | None = None,
    variant: str | None = None,
) -> dict[str, WeightSource]:
    """Find the weights of every network.

    Args:
        root: The checkpoint's folder.
        outside: Networks from elsewhere.
        libraries: Network to its library, as `base_library` says.
        configs: Network to its config.json.
        seed: Seed of random weights; None for weights from files.
        file: Single file with the weights of the networks that are not from elsewhere; None for weights in folders.
        variant: As in `choose_weights`.

    Raises:
        CheckpointError: Weights are missing, damaged, quantized, or no network has the variant.
    """
    found: dict[str, WeightSource] = {}
    for source, config in configs.items():
        other = outside.get(source)
        folder = root / source if other is None else other.folder
        if other is not None and isinstance(other.file, IPAdapterWeights):
            found[source] = other.file  # never random: without its weights there is no adapter
        elif seed is not None:
            found[source] = RandomWeights(folder=folder, seed=seed)
        elif other is not None and other.file is not None:
            found[source] = other.file
        elif other is None and file is not None:
            found[source] = FileWeights(
                folder=folder, file=file.file, part=file.part(source), owner=file.architecture.name
            )
        else:
            weights = open_weights(folder, libraries[source], config, variant)
            found[source] = FolderWeights(folder=folder, weights=weights, wanted=variant)
    if variant is not None:
        _check_variant(root, variant, found.values())
    return found


def _check_variant(root: Path, variant: str, sources: Collection[WeightSource]) -> None:
    kinds = {source.weights.choice.variant for source in sources if isinstance(source, FolderWeights)}
    if kinds and variant not in kinds:
        others = sorted(kind for kind in kinds if kind is not None)
        have = f"the variant{'s' if len(others) > 1 else ''} {' and '.join(others)}" if others else "no variant"
        raise CheckpointError(
            f"--variant: got {variant!r}, but no network of {root} has it; found {have}; choose another or leave it out"
        )
