"""Reads the files of a CLIP tokenizer into one checked value: vocabulary, merges, special tokens, limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffoundry.runtime.bundle.manifest import parse_json
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.tokenizers._fields import (
    expect,
    is_left,
    read_bounded,
    read_max_length,
    read_object,
    shorten,
)
from diffoundry.runtime.tokenizers._special_tokens import SpecialTokens, read_special_tokens

__all__ = ["TOKENIZER_FILES", "ClipFiles", "read_clip_files"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Every file that can change the ids."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipFiles:
    """Content of the files.

    Attributes:
        name: Name of the tokenizer in messages.
        source: The file that holds the vocabulary, for messages.
        vocab: Token to id, without the tokens that are only added.
        merges: Pairs of the byte-pair encoding, best first.
        special: The special and added tokens.
        model_max_length: Ids of a full prompt, or None when no file gives it.
        pad_left: True if padding comes before the prompt.
        cut_left: True if a prompt that is too long loses its beginning.
        split_special: True if "<|endoftext|>" in a prompt is plain text.
    """

    name: str
    source: Path
    vocab: dict[str, int]
    merges: list[tuple[str, str]]
    special: SpecialTokens
    model_max_length: int | None
    pad_left: bool
    cut_left: bool
    split_special: bool


def read_clip_files(files: Mapping[str, Path], name: str) -> ClipFiles:
    """Read a tokenizer from its files.

    Args:
        files: Name (one of `TOKENIZER_FILES`) to path, of the existing files.
        name: Name of the tokenizer in messages.

    Raises:
        BundleError: A file is missing, too large or damaged; the message names file and fault.
    """
    path = files.get("tokenizer_config.json", Path("tokenizer_config.json"))
    if "tokenizer.json" not in files and not {"vocab.json", "merges.txt"} <= set(files):
        got = ", ".join(sorted(files)) or "no file"
        raise BundleError(
            f"tokenizer {name}: got {got}, expected tokenizer.json, or vocab.json and merges.txt; "
            f"copy or export the whole tokenizer again"
        )
    config = read_object(files, "tokenizer_config.json")
    saved = read_object(files, "tokenizer.json")
    source, vocab, merges = _read_saved_model(files, saved) if "tokenizer.json" in files else _read_pair(files)
    special = read_special_tokens(files, config, saved)
    if special.unk not in vocab:
        raise BundleError(f"{source}: got no token {special.unk!r}, expected one for unknown bytes; export it again")
    return ClipFiles(
        name=name,
        source=source,
        vocab=vocab,
        merges=merges,
        special=special,
        model_max_length=read_max_length(config, path),
        pad_left=is_left(config, "padding_side", saved.get("padding"), path),
        cut_left=is_left(config, "truncation_side", saved.get("truncation"), path),
        split_special=expect(bool, config.get("split_special_tokens", False), path, "split_special_tokens"),
    )


def _read_saved_model(
    files: Mapping[str, Path], saved: Mapping[str, Any]
) -> tuple[Path, dict[str, int], list[tuple[str, str]]]:
    """Path, vocabulary and merges of tokenizer.json."""
    path = files["tokenizer.json"]
    model = expect(dict, saved.get("model"), path, "model")
    if model.get("type") != "BPE":
        raise BundleError(
            f"{path}: model type is {shorten(model.get('type'))}, expected 'BPE'; this is no CLIP tokenizer"
        )
    merges = expect(list, model.get("merges"), path, "model.merges")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return path, _check_vocab(model.get("vocab"), path), _check_merges(pairs, path)


def _read_pair(files: Mapping[str, Path]) -> tuple[Path, dict[str, int], list[tuple[str, str]]]:
    """Path, vocabulary and merges of vocab.json and merges.txt."""
    vocab_path, merges_path = files["vocab.json"], files["merges.txt"]
    vocab = _check_vocab(parse_json(read_bounded(vocab_path), vocab_path), vocab_path)
    try:
        lines = read_bounded(merges_path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BundleError(f"{merges_path}: not UTF-8 text ({error.reason}); copy or export it again") from error
    pairs = [line.split(" ") for line in lines if not line.startswith("#version")]
    return vocab_path, vocab, _check_merges(pairs, merges_path)


def _check_vocab(vocab: Any, path: Path) -> dict[str, int]:
    vocab = expect(dict, vocab, path, "the vocabulary")
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index < 2**31:
            raise BundleError(
                f"{path}: token {shorten(token)} has the id {shorten(index)}, expected an integer from 0 to "
                f"{2**31 - 1}; copy or export the tokenizer again"
            )
    return dict(vocab)


def _check_merges(pairs: list[Any], path: Path) -> list[tuple[str, str]]:
    for i, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise BundleError(
                f"{path}: merge {i + 1} is {shorten(pair)}, expected two tokens; copy or export the tokenizer again"
            )
    return [(first, second) for first, second in pairs]
