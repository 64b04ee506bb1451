"""The part of a pipeline that loads adapters."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.adapters.embedding import read_embedding
from diffoundry.runtime.adapters.loaded import Adapters, LoraReport, check_not_pickled
from diffoundry.runtime.bundle.specs import AdapterSpec
from diffoundry.runtime.errors import EngineError, InputError
from diffoundry.runtime.tokenizers.clip import ClipTokenizer
from diffoundry.runtime.tokenizers.extended import ExtendedTokenizer

if TYPE_CHECKING:
    from diffoundry.runtime.pipelines.families.clip import ClipEncoder

__all__ = ["Adaptable"]

FloatArray = npt.NDArray[np.float32]


class Adaptable:
    """Loads LoRAs into the engines of a pipeline, without another export.

    Several threads may generate meanwhile: each call of an engine is with one state or the other.

    Attributes:
        adapters: What is loaded.
    """

    adapters: Adapters

    @property
    def encoders(self) -> "tuple[ClipEncoder, ...]":
        """The text encoders; one gets another tokenizer when an embedding is loaded."""
        raise NotImplementedError

    @property
    def loras(self) -> Mapping[str, float]:
        """Name to scale of the LoRAs that are loaded."""
        return self.adapters.scales

    def load_lora(self, path: str | os.PathLike[str], *, scale: float = 1.0, name: str | None = None) -> LoraReport:
        """Load a LoRA beside those that are loaded.

        diffusers: `load_lora_weights` and `set_adapters`.

        The first one opens another form of each engine that it changes, which takes as long as opening them did or
        longer; from then on loading, unloading and scaling are quick. Loaded before any engine is open, only that form
        is opened. See `EngineOptions.hold` for the memory that this takes.

        Args:
            path: A safetensors file with the names of PEFT, diffusers or kohya.
            scale: Factor of its change.
            name: How to call it; by default the file's name without its ending.

        Returns:
            Which components it changes, and which of its tensors did nothing.

        Raises:
            InputError: The file is no LoRA, of a kind that is not supported, or for another model; the message names
                the first tensor that does not fit. Or the name is taken.
            EngineError: The engines that run here take no adapters; the message names their precision.
        """
        return self.adapters.load_lora(path, scale, name)

    def set_lora_scale(self, scale: float, name: str | None = None) -> None:
        """Change the scale of one LoRA, or of all that are loaded.

        Raises:
            InputError: There is none of this name, or the scale is no finite number.
        """
        self.adapters.set_scale(scale, name)

    def unload_lora(self, name: str | None = None) -> None:
        """Forget one LoRA, or all; without any, every image is bit for bit what it was before the first.

        Raises:
            InputError: There is none of this name.
        """
        self.adapters.unload_lora(name)

    def load_textual_inversion(self, path: str | os.PathLike[str], *, token: str | None = None) -> tuple[str, int]:
        """Load a textual inversion embedding: a word that prompts may hold from now on.

        diffusers: `load_textual_inversion`. Not to be called while other threads generate.

        Args:
            path: A safetensors file with one tensor; for two text encoders, with `clip_l` and `clip_g`.
            token: The word; by default the name of the tensor. For two text encoders it must be given.

        Returns:
            The word and how many vectors it stands for.

        Raises:
            InputError: The file is no embedding or for other text encoders, or the word is in a vocabulary already.
            EngineError: A text encoder's engine takes no further rows; the message names its precision.
        """
        check_not_pickled(Path(path))
        if not self.encoders:
            raise InputError(
                "textual inversion: this checkpoint has no text encoder, and no use for a word; leave it out"
            )
        specs = {encoder.name: self._table(encoder) for encoder in self.encoders}
        word, rows = read_embedding(Path(path), token, {name: spec.width for name, spec in specs.items()})
        tokenizers = {}
        for encoder in self.encoders:
            base, words = _base_and_words(encoder.tokenizer)
            if word in words:
                raise InputError(f"token {word!r}: is loaded already, expected another word; pass token=")
            added = {**words, word: len(rows[encoder.name])}
            tokenizers[encoder.name] = ExtendedTokenizer(base, added, vocabulary=specs[encoder.name].vocabulary)
        before = {name: self.adapters.rows(name) for name in rows}
        self.adapters.set_rows({name: _below(before[name], new) for name, new in rows.items()})
        for encoder in self.encoders:
            encoder.tokenizer = tokenizers[encoder.name]
        return word, len(next(iter(rows.values())))

    def unload_textual_inversion(self) -> None:
        """Forget every embedding: the words are plain text again."""
        for encoder in self.encoders:
            encoder.tokenizer = _base_and_words(encoder.tokenizer)[0]
        self.adapters.set_rows({encoder.name: None for encoder in self.encoders})

    def _table(self, encoder: "ClipEncoder") -> AdapterSpec:
        spec = self.adapters.components.adapters(encoder.name)
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
