"""Tokenizers defined by a tokenizer.json alone, as those of T5 and XLM-R. Gives exactly the ids of transformers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.tokenizers._fields import (
    MAX_LENGTH,
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


class JsonTokenizer:
    """Tokenizes as the `tokenizers` library does with a tokenizer.json. T5, XLM-R: Kudo 2018, https://arxiv.org/abs/1804.10959.

    A file with regular expressions is refused: in an untrusted file they could run forever.

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
        saved, config = read_object(files, "tokenizer.json"), read_object(files, "tokenizer_config.json")
        self._tokenizer = _open(saved, path)
        self.model_max_length = read_max_length(config, settings)
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

    def __call__(self, texts: Sequence[str], *, max_length: int | None = None) -> TokenBatch:
        """Tokenize prompts, each padded or cut to the same length.

        transformers: `tokenizer(texts, padding="max_length", max_length=max_length, truncation=True)`.

        Args:
            texts: The prompts, at least one.
            max_length: L, special tokens included; `model_max_length` by default.

        Raises:
            InputError: No list of texts, a text that is no valid Unicode, or an impossible length.
        """
        length = self.check_length(max_length)
        check_texts(texts)
        rows, masks, truncated = zip(*(self._row(text, length) for text in texts), strict=True)
        return TokenBatch(input_ids=np.stack(rows), truncated=truncated, attention_mask=np.stack(masks))

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

    def _row(self, text: str, length: int) -> tuple[NDArray[np.int32], NDArray[np.float32], str]:
        """Encode a text: its ids, its mask, and the text that was cut."""
        encoding: Encoding = self._tokenizer.encode(text, add_special_tokens=False)
        room = max(length - self._tokenizer.num_special_tokens_to_add(False), 0)
        start = max(len(encoding.ids) - room, 0) if self._truncation == "left" else 0
        cut = encoding.ids[:start] + encoding.ids[start + room :]
        encoding.truncate(room, direction=self._truncation)
        encoding = self._tokenizer.post_process(encoding)
        encoding.pad(length, direction=self._padding, pad_id=self.pad_token_id, pad_token=self._pad)
        return np.asarray(encoding.ids, np.int32), np.asarray(encoding.attention_mask, np.float32), self.decode(cut)


def _open(saved: Mapping[str, Any], path: Path) -> Tokenizer:
    if _has_pattern(saved):
        raise BundleError(f"{path}: got a regular expression, expected none; a file that is not trusted may bring none")
    try:
        tokenizer = Tokenizer.from_str(read_bounded(path).decode("utf-8"))
    except Exception as error:  # the library raises bare Exception
        raise BundleError(f"{path}: no tokenizer of a known kind ({error}); copy or export it again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _has_pattern(value: Any) -> bool:
    if isinstance(value, Mapping):
        return _PATTERN in value or any(_has_pattern(item) for key, item in value.items() if key != "vocab")
    return isinstance(value, list) and any(_has_pattern(item) for item in value)


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
