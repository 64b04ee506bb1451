"""Masks of the embeddings of a prompt."""

from typing import Any

import numpy as np

from diffoundry.runtime.errors import InputError

__all__ = ["check_token_mask"]


def check_token_mask(name: str, mask: Any, embeds_name: str, embeds: Any) -> None:
    """Refuse a mask without embeddings, embeddings without a mask, and those of different shapes.

    Args:
        name: Name of the mask, for messages.
        mask: (B, tokens) of 1 and 0, or None.
        embeds_name: Name of its embeddings.
        embeds: (B, tokens, D), or None.

    Raises:
        InputError: As said.
    """
    if embeds is None:
        if mask is not None:
            raise InputError(f"{name}: got one without {embeds_name}, expected none; the tokenizer masks a text")
        return
    shape = embeds.shape[:2]
    if mask is None:
        raise InputError(f"{name}: got none with {embeds_name}, expected one {shape}, 1 for a token and 0 for padding")
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "biuf":
        raise InputError(f"{name}: got {type(mask).__name__}, expected a NumPy array {shape} of 1 and 0")
    if mask.shape != shape or not np.isin(mask, (0, 1)).all():
        got = f"shape {mask.shape}" if mask.shape != shape else "other numbers than 1 and 0"
        raise InputError(f"{name}: got {got}, expected {shape} of 1 and 0, as {embeds_name} has tokens")
