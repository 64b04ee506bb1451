"""Tokenizers of checkpoints: found, opened with transformers, converted."""

import json

import pytest
from t5_tokenizer import sentencepiece_ids, write_sentencepiece

from diffoundry.exporter.checkpoints.tokenizer_files import check_tokenizer_files, open_tokenizer, write_tokenizer
from diffoundry.runtime.errors import CheckpointError


def test_a_sentencepiece_model_is_converted(tmp_path):
    write_sentencepiece(tmp_path / "source")
    check_tokenizer_files(tmp_path / "source")
    tokenizer = open_tokenizer(tmp_path / "source", "T5TokenizerFast")
    assert [tokenizer(text)["input_ids"] for text, _ in sentencepiece_ids()] == [ids for _, ids in sentencepiece_ids()]
    # Sentinels come after the pieces, the first last, as in T5's own tokenizer.json.
    assert tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_99>"]) == [499, 400]
    assert sorted(path.name for path in (tmp_path / "source").iterdir()) == ["spiece.model", "tokenizer_config.json"]


def test_a_converted_tokenizer_is_written_once_more_the_same(tmp_path):
    write_sentencepiece(tmp_path / "source")
    write_tokenizer(tmp_path / "source", "T5Tokenizer", tmp_path / "first")
    write_tokenizer(tmp_path / "first", "T5TokenizerFast", tmp_path / "second")
    first, second = ((tmp_path / name / "tokenizer.json").read_text() for name in ("first", "second"))
    assert json.loads(first) == json.loads(second)
    assert not (tmp_path / "first/spiece.model").exists()


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty: got no vocabulary, expected tokenizer\.json, vocab\.json with"):
        check_tokenizer_files(tmp_path / "empty")
    write_sentencepiece(tmp_path / "t5")
    with pytest.raises(CheckpointError, match="got the tokenizer 'NoTokenizer', expected a class of transformers"):
        open_tokenizer(tmp_path / "t5", "NoTokenizer")
    (tmp_path / "t5/spiece.model").write_bytes(b"\xff\xff")
    with pytest.raises(CheckpointError, match="t5: cannot be read as T5Tokenizer"):
        open_tokenizer(tmp_path / "t5", "T5Tokenizer")
