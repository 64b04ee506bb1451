"""Tokenizers defined by a tokenizer.json alone: T5, XLM-R, Qwen, Gemma, Mistral. Gives the ids of transformers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.tokenizers._fields import (
    MAX_LENGTH,
    MAX_VOCABULARY_BYTES,
    expect,
    is_left,
    read_bounded,
    read_max_length,
    read_object,
    shorten,
)
from diffoundry.runtime.tokenizers.clip import TokenBatch, check_texts

__all__ = ["JSON_FILES", "JsonTokenizer"]

JSON_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""Every file that can change the ids."""

_PATTERN = "Regex"
"""Key of a regular expression in a tokenizer.json."""

_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Mistral's. transformers: `_patch_mistral_regex`."""

_KNOWN = {_TEKKEN} | frozenset(
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}", r"\p{N}{1,3}")
)
"""Regular expressions that may occur: they split text before byte pairs in Qwen 2 and 3, Llama 3 and Mistral 3."""

_LARGEST_LIMIT = 2**31
"""Largest model_max_length of a language model; a call asks for a length of its own."""


class JsonTokenizer:
    """Tokenizes as the `tokenizers` library does with a tokenizer.json. T5, XLM-R: Kudo 2018, https://arxiv.org/abs/1804.10959.

    A file with other regular expressions than those of Qwen, Llama and Mistral is refused: in an untrusted file they
    could run forever. Byte pairs: Sennrich et al. 2016, https://arxiv.org/abs/1508.07909.

    Safe to use from several threads: nothing changes after construction. (The library's own padding and truncation
    are settings of the shared object, so they stay off.)

    Attributes:
        model_max_length: Ids of a full prompt (512 for T5), or None when the files do not give it.
        pad_token_id: Id that fills up a prompt.
    """

    def __init__(self, files: Mapping[str, Path], name: str) -> None:
        """Read a tokenizer from trusted files only.

        Args:
            files: Name, one of `JSON_FILES`, to path.
            name: Name of the tokenizer in messages.

        Raises:
            BundleError: A file is missing, damaged or hostile; the message names it.
        """
        if "tokenizer.json" not in files:
            got = ", ".join(sorted(files)) or "no file"
            raise BundleError(
                f"tokenizer {name}: got {got}, expected tokenizer.json; copy or export the whole tokenizer again"
            )
        self.name = name
        path, settings = files["tokenizer.json"], files.get("tokenizer_config.json", Path("tokenizer_config.json"))
        saved = read_object(files, "tokenizer.json", MAX_VOCABULARY_BYTES)
        config = read_object(files, "tokenizer_config.json")
        self._tokenizer = _open(saved, path)
        self.model_max_length = read_max_length(config, settings, _LARGEST_LIMIT)
        pad = _pad_token(config, read_object(files, "special_tokens_map.json"), saved, settings)
        index = self._tokenizer.token_to_id(pad)
        if index is None:
            raise BundleError(f"{path}: got no token {pad!r}, expected the one that pads prompts; export it again")
        self.pad_token_id = int(index)
        self._pad = pad
        self._padding = "left" if is_left(config, "padding_side", saved.get("padding"), settings) else "right"
        cut_left = is_left(config, "truncation_side", saved.get("truncation"), settings)
        self._truncation = "left" if cut_left else "right"

    @classmethod
    def from_folder(cls, folder: Path) -> "JsonTokenizer":
        """Open a tokenizer folder.

        Raises:
            BundleError: A file is missing, damaged or hostile; the message names it.
        """
        files = {name: folder / name for name in JSON_FILES if (folder / name).is_file()}
        return cls(files, str(folder))

    def __call__(
        self,
        texts: Sequence[str],
        *,
        max_length: int | None = None,
        pad_to: int | None = None,
        padding_side: str | None = None,
    ) -> TokenBatch:
        """Tokenize prompts, each cut to the same length and padded.

        transformers: `tokenizer(texts, padding="max_length", max_length=max_length, truncation=True)`.

        Args:
            texts: The prompts, at least one.
            max_length: L, special tokens included; `model_max_length` by default.
            pad_to: Least number of ids after padding, which is at least that of the longest prompt; None for L. With 0,
                transformers' `padding=True`.
            padding_side: "left" or "right"; None for that of the files.

        Raises:
            InputError: No list of texts, a text that is no valid Unicode, or an impossible length.
        """
        length = self.check_length(max_length)
        check_texts(texts)
        encodings, truncated = zip(*(self._encode(text, length) for text in texts), strict=True)
        longest = max(1, *(len(encoding.ids) for encoding in encodings))
        padded = length if pad_to is None else max(pad_to, longest)
        side = padding_side or self._padding
        for encoding in encodings:
            encoding.pad(padded, direction=side, pad_id=self.pad_token_id, pad_token=self._pad)
        return TokenBatch(
            input_ids=np.asarray([encoding.ids for encoding in encodings], np.int32),
            truncated=truncated,
            attention_mask=np.asarray([encoding.attention_mask for encoding in encodings], np.float32),
        )

    def check_length(self, max_length: int | None = None) -> int:
        """Number of ids of a full prompt.

        Raises:
            InputError: The files do not give it, or an impossible length.
        """
        length = self.model_max_length if max_length is None else max_length
        if length is None:
            raise InputError(f"tokenizer {self.name}: its files name no model_max_length; pass max_length")
        if not 2 <= length <= MAX_LENGTH:
            raise InputError(f"max_length: got {length}, expected 2 to {MAX_LENGTH}")
        return length

    def decode(self, ids: Sequence[int]) -> str:
        """Convert ids to text, special tokens included."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def _encode(self, text: str, length: int) -> tuple[Encoding, str]:
        """Encode a text, without padding. Also return the text that was cut."""
        encoding: Encoding = self._tokenizer.encode(text, add_special_tokens=False)
        room = max(length - self._tokenizer.num_special_tokens_to_add(False), 0)
        start = max(len(encoding.ids) - room, 0) if self._truncation == "left" else 0
        cut = encoding.ids[:start] + encoding.ids[start + room :]
        encoding.truncate(room, direction=self._truncation)
        return self._tokenizer.post_process(encoding), self.decode(cut)


def _open(saved: Mapping[str, Any], path: Path) -> Tokenizer:
    if _has_foreign_pattern(saved):
        raise BundleError(f"{path}: got a regular expression, expected none; a file that is not trusted may bring none")
    try:
        tokenizer = Tokenizer.from_str(read_bounded(path, MAX_VOCABULARY_BYTES).decode("utf-8"))
    except Exception as error:  # the library raises bare Exception
        raise BundleError(f"{path}: no tokenizer of a known kind ({error}); copy or export it again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _has_foreign_pattern(value: Any) -> bool:
    if isinstance(value, Mapping):
        pattern = value.get(_PATTERN, "")
        if _PATTERN in value and not (isinstance(pattern, str) and pattern in _KNOWN):
            return True
        return any(_has_foreign_pattern(item) for key, item in value.items() if key not in ("vocab", "merges"))
    return isinstance(value, list) and any(_has_foreign_pattern(item) for item in value)


def _pad_token(config: Mapping[str, Any], special: Mapping[str, Any], saved: Mapping[str, Any], path: Path) -> str:
    """Text of the padding token: as the configs say, else as tokenizer.json does."""
    padding = saved.get("padding")
    stored = padding.get("pad_token") if isinstance(padding, Mapping) else None
    pad = config.get("pad_token") or special.get("pad_token") or stored
    if isinstance(pad, Mapping):
        pad = pad.get("content")
    if pad is None:
        raise BundleError(f"{path}: pad_token is missing, got {shorten(pad)}, expected a token such as '<pad>'")
    return expect(str, pad, path, "pad_token")
