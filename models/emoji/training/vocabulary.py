"""The tokenizer: a byte-pair vocabulary in CLIP's form, learned from the captions of all base emoji."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from diffoundry_models.emoji.training.data import TEMPLATES, Emoji

__all__ = ["LENGTH", "SPECIALS", "train_tokenizer", "write_tokenizer"]

LENGTH = 77  # tokens of a caption, as in Stable Diffusion
SPECIALS = ("<|startoftext|>", "<|endoftext|>")
_VOCABULARY = 4295
_END = "</w>"


def train_tokenizer(emoji: Iterable[Emoji], size: int = _VOCABULARY) -> CLIPTokenizer:
    """Train a CLIP tokenizer whose merges come from the labels, in all templates, and the tags.

    The order of the entries is CLIP's: 256 bytes, 256 bytes that end a word, merges, then the two specials. They come
    last because CLIP's text encoder finds the end of the text as the largest id.

    Args:
        emoji: emoji whose captions give the merges.
        size: entries at most; fewer when the captions do not yield as many merges.
    """
    alphabet = sorted(ByteLevel.alphabet())
    reserved = [*alphabet, *(letter + _END for letter in alphabet)]
    trainer = BpeTrainer(
        vocab_size=size - len(SPECIALS),
        min_frequency=2,
        initial_alphabet=alphabet,
        end_of_word_suffix=_END,
        show_progress=False,
    )
    # CLIP's own splitting rules come with the class; only its vocabulary is replaced.
    learner = CLIPTokenizer().backend_tokenizer
    learner.model = BPE(end_of_word_suffix=_END, continuing_subword_prefix="")
    learner.train_from_iterator(_corpus(emoji), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    merges = merges[: size - len(reserved) - len(SPECIALS)]
    entries = [*reserved, *(left + right for left, right in merges), *SPECIALS]
    vocabulary = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def write_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the tokenizer with the vocabulary and merges also as the two files that older readers expect."""
    tokenizer.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder))


def _corpus(emoji: Iterable[Emoji]) -> Iterator[str]:
    for one in emoji:
        yield from (template.format(one.label) for template in TEMPLATES)
        yield " ".join(one.tags)
