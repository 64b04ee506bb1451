"""Sentences for paths that are no checkpoint but close to one."""

from pathlib import Path

from diffoundry.runtime.bundle.manifest import MANIFEST_NAME
from diffoundry.runtime.errors import CheckpointError

__all__ = ["check_file", "check_folder_of_pipeline"]

_INDEX = "model_index.json"

_SINGLE = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
"""Endings of single files: pickles and GGUF have their own message when they are opened."""


def check_file(model: str, forms: str) -> None:
    """Refuse a file that is part of a checkpoint, or none at all.

    Args:
        model: The path as the user typed it.
        forms: Accepted forms of a model, for the message.

    Raises:
        CheckpointError: It is no single file.
    """
    path = Path(model)
    folder = next((parent for parent in path.resolve().parents if (parent / _INDEX).is_file()), None)
    if path.suffix == ".json" and folder is not None:
        raise CheckpointError(
            f"model {model!r}: got a file of the checkpoint {folder.name}, expected its folder; "
            f"pass {_shorter(path, folder)}"
        )
    if path.suffix.lower() not in _SINGLE:
        raise CheckpointError(
            f"model {model!r}: got a {f'{path.suffix} file'.strip()}, which is no checkpoint, expected {forms}"
        )


def check_folder_of_pipeline(model: str, forms: str) -> None:
    """Refuse a folder that holds no pipeline of diffusers, and name the one that was meant.

    Args:
        model: The path as the user typed it.
        forms: Accepted forms of a model, for the message.

    Raises:
        CheckpointError: It has no model_index.json. A broken link has its own message when it is opened.
    """
    path = Path(model)
    index = path / _INDEX
    if (index.is_file() or index.is_symlink()) and not (path / MANIFEST_NAME).is_file():
        return
    if (path / MANIFEST_NAME).is_file():
        raise CheckpointError(
            f"model {model!r}: got a bundle, expected a checkpoint; 'diffoundry build {model}' adds engines to a bundle"
        )
    if (path.resolve().parent / _INDEX).is_file():
        parent = path.resolve().parent
        raise CheckpointError(
            f"model {model!r}: got one component of the checkpoint {parent.name}, expected the whole checkpoint; "
            f"pass {_shorter(path, parent)}"
        )
    inside = sorted(found.parent.name for found in path.glob(f"*/{_INDEX}"))
    files = sorted(found.name for found in path.glob("*.safetensors"))
    advice = ""
    if inside or files:
        advice = f". Did you mean {str(path / (inside or files)[0])!r}?"
    raise CheckpointError(f"model {model!r}: got a folder without {_INDEX}, expected {forms}{advice}")


def _shorter(path: Path, folder: Path) -> str:
    """Return a folder above `path` in the form that the user typed: relative where that was relative."""
    typed = next((parent for parent in path.parents if parent.resolve() == folder), folder)
    return repr(str(typed))
