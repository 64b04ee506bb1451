"""Writes a synthetic CLIP vocabulary: python -m diffoundry.exporter.configs.vocabulary FOLDER.

CLIP's own vocabulary is not ours to ship. This one has its size and its build (Radford et al. 2021, 2.4: byte pairs
over lower-cased text): 256 bytes, the same at the end of a word, 48,894 merges, and two special tokens at 49406 and
49407. So a text encoder of full size gets ids of its whole range. The merges are pairs, triples and some quadruples of
letters.
"""

import json
import sys
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase

__all__ = ["clip_merges", "clip_vocabulary", "write_vocabulary"]

_SIZE = 49_408
_SPECIALS = ("<|startoftext|>", "<|endoftext|>")
_END = "</w>"


def clip_merges() -> list[tuple[str, str]]:
    """The merges in their order: each side is a byte or what an earlier merge gave."""
    return list(islice(_words(), _SIZE - 2 * 256 - len(_SPECIALS)))


def _words() -> Iterator[tuple[str, str]]:
    for length, end in product((2, 3, 4), ("", _END)):
        for letters in product(ascii_lowercase, repeat=length):
            yield "".join(letters[:-1]), letters[-1] + end


def clip_vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Token to id: bytes, bytes at the end of a word, merges, special tokens."""
    letters = [chr(code) for code in _byte_letters()]
    tokens = [*letters, *(letter + _END for letter in letters), *("".join(pair) for pair in merges), *_SPECIALS]
    return {token: index for index, token in enumerate(tokens)}


def _byte_letters() -> list[int]:
    """GPT-2's printable letter for each byte, in CLIP's order: printable bytes first, then the others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*printable, *range(256, 256 + 256 - len(printable))]


def write_vocabulary(folder: Path) -> None:
    """Write vocab.json and merges.txt."""
    merges = clip_merges()
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    vocabulary = json.dumps(clip_vocabulary(merges), ensure_ascii=False)
    (folder / "vocab.json").write_text(vocabulary + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_vocabulary(Path(sys.argv[1]))
