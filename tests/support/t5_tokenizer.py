"""Writes the tiny T5 tokenizer of `t5/`, as checkpoints have it, and its pieces as a tokenizer of XLM-R."""

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


def write_xlm_roberta(folder: Path) -> None:
    """Write sentencepiece.bpe.model and the config beside it, as Kandinsky 2.1 has them, with the pieces of T5.

    The ids of XLM-R are those of sentencepiece plus one, but for the special tokens.
    """
    from transformers.utils import sentencepiece_model_pb2_new as schema

    proto = schema.ModelProto()
    proto.ParseFromString(lzma.decompress((_FILES / "spiece.model.xz").read_bytes()))
    kinds = type(proto.pieces[0])
    for piece, (text, kind) in zip(
        proto.pieces, (("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)), strict=False
    ):
        piece.piece, piece.type = text, kind
    folder.mkdir(parents=True)
    (folder / "sentencepiece.bpe.model").write_bytes(proto.SerializeToString())
    config = {"model_max_length": 512, "tokenizer_class": "XLMRobertaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def sentencepiece_ids() -> list[tuple[str, list[int]]]:
    """Texts, and their ids by the sentencepiece library."""
    return [(text, ids) for text, ids in json.loads((_FILES / "sentencepiece_ids.json").read_text(encoding="utf-8"))]
