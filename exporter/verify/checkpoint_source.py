"""Finds the checkpoint of a bundle, and reports the differences when another one is used."""

from collections.abc import Iterator

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_recipe
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.errors import BundleError, CheckpointError, InputError
from diffoundry.runtime.pipelines.registry import family_of_class

__all__ = ["check_family", "find_checkpoint", "identity_notes"]


def find_checkpoint(bundle: Bundle) -> Checkpoint:
    """Open the checkpoint of the bundle's recipe; random weights are made again from their seed.

    Raises:
        InputError: The folder has no manifest, so its checkpoint is unknown.
        CheckpointError: The checkpoint no longer exists.
        BundleError: The recipe's seed is no number.
    """
    if bundle.manifest is None:
        raise InputError(
            f"bundle {bundle.root}: got a folder without a manifest, so its checkpoint is unknown; "
            f"name the checkpoint with --against"
        )
    try:
        return open_recipe(bundle.manifest.recipe)
    except InputError as error:
        raise BundleError(f"bundle {bundle.root}: {error}") from error
    except CheckpointError as error:
        raise CheckpointError(
            f"bundle {bundle.root}: the checkpoint of its recipe cannot be opened: {error}; "
            f"name its current place with --against"
        ) from error


def check_family(bundle: Bundle, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint of another pipeline family than the bundle's.

    Raises:
        InputError: As said.
    """
    entry = family_of_class(bundle.pipeline_class)
    family = bundle.manifest.family if bundle.manifest else entry and entry.name
    if family != checkpoint.family.name:
        raise InputError(
            f"checkpoint {checkpoint.name}: got a checkpoint of another pipeline family, {checkpoint.family.name}; the "
            f"bundle {bundle.root} is of {family}; pass the checkpoint that it was exported from"
        )


def identity_notes(bundle: Bundle, checkpoint: Checkpoint) -> Iterator[str]:
    """Yield a note for each file of the checkpoint whose bytes differ from those of the recipe."""
    if bundle.manifest is None:
        yield "the folder has no manifest: its weights are of unknown origin, and no checksums could be checked"
        return
    recorded, found = bundle.manifest.recipe.source, checkpoint.identity()
    changed = sorted(name for name in {*recorded, *found} if recorded.get(name) != found.get(name))
    if changed:
        names = ", ".join(changed[:4]) + (" ..." if len(changed) > 4 else "")
        first = changed[0]
        yield (
            f"the checkpoint {checkpoint.name} is not the one that the bundle was made from: {names} differ "
            f"(SHA-256 of {first}: {_short(found.get(first))}, in the recipe: {_short(recorded.get(first))})"
        )


def _short(value: str | None) -> str:
    return "missing" if value is None else value[:12]
