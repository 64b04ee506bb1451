"""Writes the tiny T5 tokenizer of `t5/`, as checkpoints have it."""

import json
import lzma
from pathlib import Path

_FILES = Path(__file__).parent / "t5"


def write_sentencepiece(folder: Path) -> None:
    """Write spiece.model and the config beside it: what older checkpoints have."""
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(lzma.decompress((_FILES / "spiece.model.xz").read_bytes()))
    config = {"model_max_length": 512, "tokenizer_class": "T5Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def sentencepiece_ids() -> list[tuple[str, list[int]]]:
    """Texts, and their ids by the sentencepiece library."""
    return [(text, ids) for text, ids in json.loads((_FILES / "sentencepiece_ids.json").read_text(encoding="utf-8"))]
