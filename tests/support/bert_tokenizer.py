"""Writes a small WordPiece tokenizer as checkpoints of latent diffusion have it: vocab.txt alone, with its config."""

import json
import string
from pathlib import Path

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PIECES = (*string.ascii_lowercase, *string.digits)
_WORDS = (
    *("the", "cat", "cats", "apple", "table", "paint", "run", "very", "long", "naive", "cafe", "un", "##ing", "##er"),
    *("##aff", "##able", "##ning", "苹", "果", "ß", "fi", "##fi", "ı", "##ı", "и", "й", "##и", "한", "ᄒ", "ᅡ", "##ᅡ"),
    *("##ᆫ", "🍎", "٣", "##٣", "é", "∑", "–", "’"),
)


def write_wordpiece(folder: Path, **config: object) -> int:
    """Write vocab.txt and tokenizer_config.json; returns the number of tokens.

    Args:
        folder: Made if missing.
        config: Over the usual settings: lower case, 77 tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    punctuation = string.punctuation
    pieces = [*_SPECIAL, *punctuation, *_PIECES, *(f"##{piece}" for piece in _PIECES), *_WORDS]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    settings = {"do_lower_case": True, "model_max_length": 77, "tokenizer_class": "BertTokenizer", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(pieces)
