"""A textual inversion file: one word and the vectors that stand for it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.safetensors import Safetensors

__all__ = ["read_embedding"]

_LISTED = 3


def read_embedding(path: Path, token: str | None, width: int) -> tuple[str, npt.NDArray[np.float32]]:
    """The word and its vectors, float32 (count, width).

    Gal et al. 2022, https://arxiv.org/abs/2208.01618. diffusers: `_retrieve_tokens_and_embeddings`: the file has one
    tensor, (width,) or (count, width), whose name is the word unless another is given.

    Args:
        path: A safetensors file.
        token: The word in prompts, or None for the tensor's name.
        width: Of the text encoder's embeddings.

    Raises:
        InputError: The file holds something else, or vectors of another width.
    """
    file = Safetensors(path)
    names = list(file)
    if len(names) != 1:
        listed = ", ".join(repr(name) for name in names[:_LISTED]) or "none"
        raise InputError(
            f"embedding {path}: got {len(names)} tensors ({listed}), expected one, named as the token; "
            f"it is no textual inversion embedding, or one for a pipeline with several text encoders"
        )
    word = names[0] if token is None else token
    if not word or word != word.strip():
        raise InputError(f"token: got {word!r}, expected a word without blanks at its ends, such as '<cat>'")
    vectors = file.read(names[0])
    rows = vectors.reshape(1, -1) if vectors.ndim == 1 else vectors
    if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        raise InputError(
            f"embedding {path}: tensor {names[0]!r}: got shape {vectors.shape}, "
            f"expected ({width},) or (count, {width}); it was trained for another text encoder"
        )
    return word, rows
