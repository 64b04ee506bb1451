"""`pipe.embeddings`: loads textual inversions into the text encoders of a pipeline."""

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.adapters.adapter_set import AdapterSet
from diffoundry.runtime.adapters.embedding import read_embedding
from diffoundry.runtime.adapters.pickles import adapter_file
from diffoundry.runtime.bundle.specs import AdapterSpec
from diffoundry.runtime.errors import EngineError, InputError
from diffoundry.runtime.models.protocols import TextEncoder
from diffoundry.runtime.tokenizers.clip import ClipTokenizer
from diffoundry.runtime.tokenizers.extended import ExtendedTokenizer

__all__ = ["TextualInversions"]

FloatArray = npt.NDArray[np.float32]


class TextualInversions:
    """The textual inversions of a pipeline: words whose embeddings come from files.

    Gal et al. 2022, https://arxiv.org/abs/2208.01618.
    """

    def __init__(self, adapters: AdapterSet, encoders: Sequence[TextEncoder]) -> None:
        """Share the adapters of a pipeline.

        Args:
            adapters: Get the rows of new tokens.
            encoders: Get tokenizers with more words; those that do not read CLIP's tokens are left alone.
        """
        self._adapters = adapters
        self._encoders = [one for one in encoders if isinstance(one.tokenizer, ClipTokenizer)]

    def load(self, path: str | os.PathLike[str], *, token: str | None = None) -> tuple[str, int]:
        """Load an embedding: a word that prompts may contain from now on.

        diffusers: `load_textual_inversion`. Not to be called while other threads generate.

        Args:
            path: A safetensors file with one tensor; for two text encoders, with `clip_l` and `clip_g`.
            token: The word; by default the name of the tensor. It must be given where that is no word, as in files of
                AUTOMATIC1111 and in those for two text encoders.

        Returns:
            The word and the number of its vectors.

        Raises:
            InputError: The file is no embedding or for other text encoders, or the word is in a vocabulary already.
            EngineError: A text encoder's engine takes no further rows; the message names its precision.
        """
        file = adapter_file(path)
        if not self._encoders:
            raise InputError(
                "textual inversion: this checkpoint has no CLIP text encoder, so it cannot use a word; leave it out"
            )
        specs = {encoder.name: self._table(encoder) for encoder in self._encoders}
        word, rows = read_embedding(file, token, {name: spec.width for name, spec in specs.items()})
        tokenizers = {}
        for encoder in self._encoders:
            base, words = _base_and_words(encoder.tokenizer)
            if word in words:
                raise InputError(f"token {word!r} is loaded already; pass another word as token")
            added = {**words, word: len(rows[encoder.name])}
            tokenizers[encoder.name] = ExtendedTokenizer(base, added, vocabulary=specs[encoder.name].vocabulary)
        before = {name: self._adapters.rows(name) for name in rows}
        self._adapters.set_rows({name: _below(before[name], new) for name, new in rows.items()})
        for encoder in self._encoders:
            encoder.tokenizer = tokenizers[encoder.name]
        return word, len(next(iter(rows.values())))

    def unload(self) -> None:
        """Remove every embedding: the words are plain text again."""
        for encoder in self._encoders:
            encoder.tokenizer = _base_and_words(encoder.tokenizer)[0]
        self._adapters.set_rows({encoder.name: None for encoder in self._encoders})

    def _table(self, encoder: TextEncoder) -> AdapterSpec:
        spec = self._adapters.session.adapters(encoder.name)
        if spec.table is None:
            raise EngineError(
                f"component {encoder.name!r}: got an engine whose table of tokens takes no further rows, expected one "
                f"that does, such as onnxruntime or openvino in fp32; ask for it with --target and --precision"
            )
        return spec


def _below(before: FloatArray | None, rows: FloatArray) -> FloatArray:
    return rows if before is None else np.concatenate([before, rows])


def _base_and_words(tokenizer: ClipTokenizer) -> tuple[ClipTokenizer, dict[str, int]]:
    return (tokenizer.base, tokenizer.words) if isinstance(tokenizer, ExtendedTokenizer) else (tokenizer, {})
