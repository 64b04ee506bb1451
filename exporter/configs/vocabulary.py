"""CLIP's vocabulary, from the merges that are installed, and those of other kinds that are made of its words.

Radford et al. 2021, https://arxiv.org/abs/2103.00020, 2.4: byte pairs over lower-cased text. https://github.com/openai/CLIP,
`clip/simple_tokenizer.py`, MIT licence: see NOTICE.
"""

import gzip
import json
import math
from functools import cache
from pathlib import Path

from diffoundry.exporter.checkpoints.aliases import package_path

__all__ = [
    "clip_merges",
    "clip_vocabulary",
    "write_bert_vocabulary",
    "write_gemma_vocabulary",
    "write_mistral_vocabulary",
    "write_qwen_vocabulary",
    "write_t5_vocabulary",
    "write_vocabulary",
    "write_xlm_roberta_vocabulary",
]

_SPECIALS = ("<|startoftext|>", "<|endoftext|>")
_END = "</w>"

_BERT_TOKENS = 30_522
_BERT_SPECIALS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
"""Numbers of BERT's special tokens; those between are unused."""

_XLM_R_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")

_GEMMA_SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
_BYTE_SPACE = "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"
_QWEN_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN_IMAGES = {"<|vision_start|>": 151_652, "<|vision_end|>": 151_653, "<|image_pad|>": 151_655}
"""Tokens of images with Qwen's numbers, which configs name."""

_MISTRAL_SPECIALS = {
    "<unk>": 0, "<s>": 1, "</s>": 2, "[INST]": 3, "[/INST]": 4, "[IMG]": 10, "<pad>": 11, "[IMG_BREAK]": 12,
    "[IMG_END]": 13, "[SYSTEM_PROMPT]": 17, "[/SYSTEM_PROMPT]": 18,
}  # fmt: skip
_MISTRAL_FIRST = 1000
"""Number of the first piece: those below are special tokens."""


_T5_SPECIALS = ("<pad>", "</s>", "<unk>")
_T5_PIECES, _T5_SENTINELS = 32_000, 100
_T5_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


@cache
def clip_merges() -> tuple[tuple[str, str], ...]:
    """The 48,894 merges in their order: each side is a byte or what an earlier merge gave."""
    text = gzip.decompress(package_path("exporter/configs/clip_merges.txt.gz").read_bytes()).decode("utf-8")
    pairs = (line.partition(" ") for line in text.splitlines())
    return tuple((left, right) for left, _, right in pairs)


def clip_vocabulary() -> dict[str, int]:
    """Token to id, 49,408 of them: bytes, bytes at the end of a word, merges, special tokens."""
    letters = [chr(code) for code in _byte_letters()]
    tokens = [*letters, *(letter + _END for letter in letters), *("".join(pair) for pair in clip_merges()), *_SPECIALS]
    return {token: index for index, token in enumerate(tokens)}


def _byte_letters() -> list[int]:
    """GPT-2's printable letter for each byte, in CLIP's order: printable bytes first, then the others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*printable, *range(256, 256 + 256 - len(printable))]


def write_vocabulary(folder: Path) -> None:
    """Write vocab.json and merges.txt, as transformers' `CLIPTokenizer` reads them."""
    lines = ["#version: 0.2", *(" ".join(pair) for pair in clip_merges())]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    vocabulary = json.dumps(clip_vocabulary(), ensure_ascii=False)
    (folder / "vocab.json").write_text(vocabulary + "\n", encoding="utf-8")


def write_bert_vocabulary(folder: Path) -> None:
    """Write a vocab.txt of BERT's kind and size, for networks with random weights.

    BERT's own pieces are not installed. These are the special tokens, printable characters, and the words and parts of
    words of CLIP's vocabulary, the likeliest first.
    """
    texts = [left + right for left, right in clip_merges() if (left + right).isascii()]
    characters = list(map(chr, (*range(33, 65), *range(91, 127))))
    parts = [text.removesuffix(_END) if text.endswith(_END) else f"##{text}" for text in texts]
    specials = {number: token for token, number in _BERT_SPECIALS.items()}
    first = [specials.get(number, f"[unused{number}]") for number in range(max(specials) + 1)]
    pieces = dict.fromkeys((*first, *characters, *(f"##{character}" for character in characters), *parts))
    lines = list(pieces)[:_BERT_TOKENS]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_qwen_vocabulary(folder: Path) -> None:
    """Write vocab.json and merges.txt of Qwen's kind, for networks with random weights.

    Qwen's own 151,643 pieces are not installed. These are bytes, the words and parts of words of CLIP's vocabulary, the
    words with a space before them, and the special tokens, with other numbers than Qwen's but for those of images.
    """
    pieces, pairs = _byte_pairs()
    tokens = dict.fromkeys((*pieces, *_QWEN_SPECIALS))
    vocabulary = {**{token: index for index, token in enumerate(tokens)}, **_QWEN_IMAGES}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_mistral_vocabulary(folder: Path) -> None:
    """Write a tokenizer.json of the kind of Mistral Small 3, for networks with random weights.

    Mistral's own 131,072 pieces are not installed. These are those of `write_qwen_vocabulary`, and special tokens with
    Mistral's numbers.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.processors import TemplateProcessing

    pieces, pairs = _byte_pairs()
    vocabulary = {**_MISTRAL_SPECIALS, **{token: _MISTRAL_FIRST + index for index, token in enumerate(pieces)}}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=pairs))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _MISTRAL_SPECIALS])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", _MISTRAL_SPECIALS["<s>"])])
    tokenizer.save(str(folder / "tokenizer.json"))


def _byte_pairs() -> tuple[list[str], list[tuple[str, str]]]:
    """Return tokens and merges of byte pairs: bytes, CLIP's words and parts of words, words with a space before."""
    letters = [chr(code) for code in _byte_letters()]
    joined = [(left, right.removesuffix(_END)) for left, right in clip_merges()]
    words = [left + right.removesuffix(_END) for left, right in clip_merges() if right.endswith(_END)]
    pairs = dict.fromkeys((*joined, *((_BYTE_SPACE, word) for word in (*letters[:94], *words))))
    return list(dict.fromkeys((*letters, *(left + right for left, right in pairs)))), list(pairs)


def write_t5_vocabulary(folder: Path) -> None:
    """Write a tokenizer.json of T5's kind and size, for networks with random weights.

    T5's own pieces are not installed. These are the special tokens, printable characters, and the words of CLIP's
    vocabulary, the likeliest first.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram

    vocabulary = [(token, 0.0) for token in _T5_SPECIALS]
    vocabulary += _scored_pieces(_T5_PIECES - len(_T5_SPECIALS))
    vocabulary += [(f"<extra_id_{index}>", 0.0) for index in reversed(range(_T5_SENTINELS))]
    Tokenizer(Unigram(vocabulary, unk_id=_T5_SPECIALS.index("<unk>"))).save(str(folder / "tokenizer.json"))


def write_xlm_roberta_vocabulary(folder: Path) -> None:
    """Write a tokenizer.json of XLM-R's kind, for networks with random weights.

    XLM-R's own 250,002 pieces are not installed. These are the special tokens, printable characters, and the words of
    CLIP's vocabulary, the likeliest first.
    """
    from transformers import XLMRobertaTokenizer

    specials = [(token, 0.0) for token in _XLM_R_SPECIALS]
    tokenizer = XLMRobertaTokenizer(vocab=[*specials, *_scored_pieces(None), ("<mask>", 0.0)])
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def write_gemma_vocabulary(folder: Path) -> None:
    """Write a tokenizer.json of Gemma's kind, for networks with random weights.

    Gemma's own 256,000 pieces are not installed. These are the special tokens, bytes, printable characters, and the
    merges of CLIP's vocabulary, with and without a space before them.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import GemmaTokenizer

    texts = ((left, right.removesuffix(_END)) for left, right in clip_merges())
    pairs = list(dict.fromkeys(pair for pair in texts if "".join(pair).isascii()))
    spaced = [(_T5_SPACE, word) for word in dict.fromkeys(map("".join, pairs))]
    parts = (*_GEMMA_SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), _T5_SPACE, *map(chr, range(33, 127)))
    tokens = dict.fromkeys((*parts, *map("".join, pairs), *map("".join, spaced)))
    tokenizer = GemmaTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[*pairs, *spaced])
    start = _GEMMA_SPECIALS[2]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, _GEMMA_SPECIALS.index(start))]
    )
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def _scored_pieces(count: int | None) -> list[tuple[str, float]]:
    """Return pieces of a unigram model with their scores, the likeliest first: `count` of them, or all."""
    texts = [left + right for left, right in clip_merges() if (left + right).isascii()]
    words = [_T5_SPACE + text.removesuffix(_END) for text in texts if text.endswith(_END)]
    parts = [text for text in texts if not text.endswith(_END)]
    pieces = dict.fromkeys((_T5_SPACE, *map(chr, range(33, 127)), *words, *parts))
    return [(piece, -math.log(rank + 2)) for rank, piece in enumerate(list(pieces)[:count])]
