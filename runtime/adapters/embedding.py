"""Reads textual inversion files: one word and its vectors, for each text encoder."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.safetensors import Safetensors

__all__ = ["NO_WORDS", "read_embedding"]

_LISTED = 3

NO_WORDS = frozenset({"emb_params", "string_to_param", "*", "clip_l", "clip_g", "clip_h"})
"""Names of tensors that other programs give to every embedding: AUTOMATIC1111, ComfyUI and trainers for XL."""

_TENSORS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
"""Component to the tensor of a file for several of them."""


def read_embedding(
    path: Path, token: str | None, widths: Mapping[str, int]
) -> tuple[str, dict[str, npt.NDArray[np.float32]]]:
    """The word and, for each text encoder, its vectors, float32 (count, width).

    Gal et al. 2022, https://arxiv.org/abs/2208.01618. diffusers: `_retrieve_tokens_and_embeddings`: the file for one
    text encoder has one tensor, (width,) or (count, width), whose name is the word unless `token` is
    passed; here a name of `NO_WORDS` is none. That for the two of Stable Diffusion XL has `clip_l` and `clip_g`, and no
    word.

    Args:
        path: A safetensors file.
        token: The word in prompts, or None for the tensor's name.
        widths: Component to the width of its embeddings.

    Raises:
        InputError: The file holds something else, vectors of another width, or none for a text encoder.
    """
    file = Safetensors(path)
    names = _tensor_names(file, path, list(widths))
    named = {name for name in names.values() if name not in NO_WORDS}
    word = named.pop() if token is None and len(named) == len(widths) == 1 else token
    if word is None:
        raise InputError(
            f"token: got none, expected the word for {path}, whose tensors do not name it; such as {path.stem!r}"
        )
    if not isinstance(word, str) or not word or word != word.strip():
        raise InputError(f"token: got {word!r}, expected a word without blanks at its ends, such as '<cat>'")
    rows = {part: _read_rows(file, path, names[part], width) for part, width in widths.items()}
    counts = {names[part]: len(vectors) for part, vectors in rows.items()}
    if len(set(counts.values())) != 1:
        listed = ", ".join(f"{count} in {name!r}" for name, count in counts.items())
        raise InputError(f"embedding {path}: got {listed}, expected as many vectors for each text encoder")
    return word, rows


def _tensor_names(file: Safetensors, path: Path, parts: list[str]) -> dict[str, str]:
    """Text encoder to its tensor."""
    names = list(file)
    listed = ", ".join(repr(name) for name in names[:_LISTED]) or "none"
    if len(parts) == 1:
        if len(names) != 1:
            raise InputError(
                f"embedding {path}: got {len(names)} tensors ({listed}), expected one, named as the token; "
                f"it is no textual inversion embedding, or one for a pipeline with several text encoders"
            )
        return {parts[0]: names[0]}
    wanted = {part: _TENSORS[part] for part in parts}
    if set(names) != set(wanted.values()):
        raise InputError(
            f"embedding {path}: got {len(names)} tensors ({listed}), expected {' and '.join(wanted.values())} for "
            f"{' and '.join(parts)}; it is no textual inversion embedding, or one for another pipeline"
        )
    return wanted


def _read_rows(file: Safetensors, path: Path, name: str, width: int) -> npt.NDArray[np.float32]:
    vectors = file.read(name)
    rows = vectors.reshape(1, -1) if vectors.ndim == 1 else vectors
    if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        raise InputError(
            f"embedding {path}: tensor {name!r}: got shape {vectors.shape}, "
            f"expected ({width},) or (count, {width}); it was trained for another text encoder"
        )
    return rows
