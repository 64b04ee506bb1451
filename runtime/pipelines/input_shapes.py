"""Shapes of the denoiser's inputs that have a size of their own, such as residuals."""

from collections.abc import Sequence

from diffoundry.runtime.bundle.dims import size_of
from diffoundry.runtime.errors import BundleError

__all__ = ["shape_of_input"]


def shape_of_input(
    shape: Sequence[int | str],
    latents: Sequence[int],
    *,
    copies: int,
    scale_factor: int,
    owner: str,
    tokens: int = 0,
) -> tuple[int, ...]:
    """Return the shape of an input in a call.

    Args:
        shape: As the graph declares it, rows first.
        latents: Shape of the latents, (B, C, h, w).
        copies: Rows for each of the latents.
        scale_factor: Pixels to a latent.
        owner: Source of the input, for messages, such as "a ControlNet".
        tokens: Of a prompt, where inputs may have as many.

    Raises:
        BundleError: A size does not follow from the image's.
    """
    sizes = {"height": latents[2] * scale_factor, "width": latents[3] * scale_factor}
    sizes |= {"sequence": tokens} if tokens else {}
    rest = [size_of(dim, sizes) for dim in shape[1:]]
    if None in rest:
        raise BundleError(
            f"inputs for {owner}: got an input of the denoiser of shape {tuple(shape)}, expected sizes that follow "
            f"from height and width; export the bundle again"
        )
    return (latents[0] * copies, *(size for size in rest if size is not None))
