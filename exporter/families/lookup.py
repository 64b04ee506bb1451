"""Finds the family of a checkpoint by the pipeline class that it names."""

import importlib
from typing import cast

from diffoundry.exporter.component import Family
from diffoundry.runtime.errors import CheckpointError

__all__ = ["FAMILIES", "find_family"]

FAMILIES = {
    "StableDiffusionPipeline": "diffoundry.exporter.families.stable_diffusion:FAMILY",
}
"""Name of diffusers' pipeline class to "module:attribute" of the family. A new family adds its line here."""


def find_family(pipeline_class: str) -> Family:
    """The family whose pipeline diffusers calls `pipeline_class`.

    Raises:
        CheckpointError: There is none.
    """
    if pipeline_class not in FAMILIES:
        raise CheckpointError(
            f"model_index.json: pipeline class: got {pipeline_class!r}, expected one of {', '.join(sorted(FAMILIES))}"
        )
    module, _, attribute = FAMILIES[pipeline_class].partition(":")
    return cast("Family", getattr(importlib.import_module(module), attribute))
