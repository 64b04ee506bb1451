"""The check of an image's size: whole patches of latents, and the sizes that a bundle's engines take."""

from diffoundry.runtime.bundle.specs import Recipe
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import shorten

__all__ = ["check_size"]

_LARGEST_SIDE = 2**31 - 1
"""Pixels; memory ends far below."""


def check_size(size: tuple[int, int], pixels: int, patch: int, recipe: Recipe | None) -> None:
    """Refuse a size (height, width) in pixels that makes no whole latents or patches, or that the engines do not take.

    Args:
        size: Height and width.
        pixels: Pixels to a side of a latent.
        patch: Number of latents of which the denoiser takes multiples to a side, such as those of a patch; 1 for any.
        recipe: The bundle's; None allows every size.

    Raises:
        InputError: As said.
    """
    multiple = pixels * patch
    reason = f": a latent has {pixels} pixels and the denoiser takes multiples of {patch} latents"
    dims, buckets = (recipe.dims, recipe.buckets) if recipe else ({}, ())
    for name, value in zip(("height", "width"), size, strict=True):
        if value > _LARGEST_SIDE:
            raise InputError(f"{name}: got {shorten(value)}, expected 1 to {_LARGEST_SIDE} pixels")
        if value % multiple or value < multiple:
            why = reason if patch > 1 else " (pixels to a latent)"
            raise InputError(f"{name}: got {value}, expected a multiple of {multiple}{why}")
        refusal = dims[name].refusal(value) if name in dims else None
        if refusal:
            raise InputError(f"{name}: got {value}, {refusal}: the sizes that this bundle takes")
    if buckets and size not in buckets:
        known = ", ".join(f"{width}x{height}" for height, width in buckets)
        raise InputError(
            f"size: got {size[1]}x{size[0]}, expected one of {known}: the sizes that this bundle has engines for"
        )
