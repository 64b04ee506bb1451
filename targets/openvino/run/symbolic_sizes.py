"""Sizes that a model is judged by, where its manifest entry names none."""

from diffoundry.runtime.bundle.specs import EngineSpec

__all__ = ["default_sizes"]

_DEFAULT_SIZES = {"batch": 1, "height": 512, "width": 512, "sequence": 77}
"""Sizes of Stable Diffusion 1, for engines whose manifest entry names none."""


def default_sizes(spec: EngineSpec) -> dict[str, int]:
    """Return the sizes of one image that the checkpoint was made for: pixels, tokens of a text."""
    return {**_DEFAULT_SIZES, **spec.options.get("default_sizes", {})}
