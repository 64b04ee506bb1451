"""Tokens of other images in the conditioning of a denoiser, which are joined once for all steps."""

from collections.abc import Sequence

import numpy as np

from diffoundry.runtime.models.protocols import Feeds, FloatArray

__all__ = ["GRIDS", "STATES", "join_references", "network_feeds", "read_grids"]

STATES = "reference_hidden_states"
"""Name in the conditioning for the tokens of other images, (B, tokens, C), an input of the network."""

GRIDS = "reference_grids"
"""Name in the conditioning for rows and columns of each of these images, (B, images, 2): their positions follow."""


def join_references(images: Sequence[FloatArray], batch: int, copies: int, channels: int) -> dict[str, FloatArray]:
    """Return the conditioning for other images, `STATES` and `GRIDS`.

    Args:
        images: Tokens of each, (1 or B, rows, columns, channels).
        batch: B, images of a call.
        copies: As `Guidance.copies`.
        channels: Of a token.
    """
    tokens = [np.zeros((batch, 0, channels), np.float32)]
    for image in images:
        flat = image.reshape(len(image), -1, channels)
        tokens.append(np.broadcast_to(flat, (batch, *flat.shape[1:])))
    joined = np.concatenate([np.concatenate(tokens, axis=1)] * copies)
    grids = np.array([image.shape[1:3] for image in images], np.float32).reshape(1, len(images), 2)
    return {STATES: joined, GRIDS: np.repeat(grids, len(joined), axis=0)}


def read_grids(conditioning: Feeds) -> tuple[tuple[int, int], ...]:
    """Return rows and columns of each other image of a conditioning, none without them."""
    if GRIDS not in conditioning:
        return ()
    return tuple((int(rows), int(columns)) for rows, columns in conditioning[GRIDS][0])


def network_feeds(conditioning: Feeds) -> dict[str, FloatArray]:
    """Return what a conditioning holds for the network itself."""
    return {name: array for name, array in conditioning.items() if name != GRIDS}
