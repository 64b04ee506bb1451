"""The pipeline class that a checkpoint is exported for, where it is not the one that model_index.json names."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from diffoundry.runtime.errors import CheckpointError, InputError
from diffoundry.runtime.formats.config_values import shorten
from diffoundry.runtime.pipelines.registry import FAMILY_TABLE, family_of_class
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["PIPELINE", "checked_against", "index_with_pipeline"]

PIPELINE = "pipeline"
"""Key of the class in a recipe's source."""


def index_with_pipeline(index: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """Return model_index.json with another pipeline class.

    Args:
        index: model_index.json.
        name: The class; None keeps that of the checkpoint.

    Raises:
        InputError: It is not supported, or has networks that other options join.
    """
    if name is None:
        return dict(index)
    entry = family_of_class(name)
    if entry is None:
        known = [one for entry in FAMILY_TABLE for one in entry.classes]
        raise InputError(
            f"--pipeline: got {shorten(name)}, expected a supported pipeline class of diffusers, such as "
            f"StableDiffusionXLPAGPipeline; see docs/reference/pipelines.md.{did_you_mean(name, known)}"
        )
    for joined, option in (
        (entry.classes[name].controlnet, "--controlnet"),
        (entry.classes[name].t2i_adapter, "--t2i-adapter"),
    ):
        if joined:
            raise InputError(
                f"--pipeline: got {name!r}, expected the class without its further networks; pass them with {option}, "
                f"which chooses that class"
            )
    return {**index, "_class_name": name}


@contextmanager
def checked_against(name: str | None) -> Iterator[None]:
    """Within this context, an error of a checkpoint's classes says that another pipeline class was asked for.

    Args:
        name: The class; None leaves errors as they are.

    Raises:
        InputError: Instead of the `CheckpointError`.
    """
    try:
        yield
    except CheckpointError as error:
        if name is None:
            raise
        raise InputError(
            f"--pipeline: got {name!r}, which does not fit this checkpoint: {error}; leave it out"
        ) from error
