"""The tokenizers of T5 and XLM-R against transformers and sentencepiece, and files that are refused."""

import json

import numpy as np
import pytest
from t5_tokenizer import sentencepiece_ids, write_sentencepiece, write_xlm_roberta

from diffoundry.exporter.checkpoints.tokenizer_files import open_tokenizer, write_tokenizer
from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.tokenizers.tokenizer_json import JsonTokenizer

TEXTS = [*(text for text, _ in sentencepiece_ids()), "100% </s> fun <extra_id_3>x <pad>", "<unk> ▁ \u200b\x07"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5") / "tokenizer"
    write_sentencepiece(folder)
    return folder


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("written")
    write_tokenizer(source, "T5TokenizerFast", target)
    return target


@pytest.fixture
def changed(folder, tmp_path):
    """Writes the tokenizer with changed files: name to what JSON it holds, or None for no file."""

    def change(**files):
        for path in folder.iterdir():
            value = files.get(path.stem, json.loads(path.read_text()))
            if value is not None:
                (tmp_path / path.name).write_text(json.dumps(value))
        return tmp_path

    return change


@pytest.mark.parametrize("length", [2, 5, 77, 256])
def test_ids_are_those_of_transformers(source, folder, length):
    reference = open_tokenizer(source, "T5TokenizerFast")
    expected = reference(TEXTS, padding="max_length", max_length=length, truncation=True)
    batch = JsonTokenizer.from_folder(folder)(TEXTS, max_length=length)
    assert (batch.input_ids.dtype, batch.attention_mask.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(batch.input_ids, expected["input_ids"])
    np.testing.assert_array_equal(batch.attention_mask, expected["attention_mask"])


def test_ids_are_those_of_sentencepiece(folder):
    tokenizer = JsonTokenizer.from_folder(folder)
    for text, expected in sentencepiece_ids():
        ids = tokenizer([text], max_length=512).input_ids[0]
        assert ids.tolist() == expected + [0] * (512 - len(expected)), text


def test_ids_of_xlm_roberta(tmp_path):
    """As Kandinsky 2.1 reads prompts: from the sentencepiece model, and from an older tokenizer.json."""
    write_xlm_roberta(tmp_path / "source")
    write_tokenizer(tmp_path / "source", "XLMRobertaTokenizer", tmp_path / "written")
    saved = json.loads((tmp_path / "written/tokenizer.json").read_text())
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    saved["normalizer"] = {"type": "Sequence", "normalizers": [saved["normalizer"], spaces]}
    (tmp_path / "older").mkdir()
    (tmp_path / "older/tokenizer.json").write_text(json.dumps(saved))
    (tmp_path / "older/tokenizer_config.json").write_text((tmp_path / "source/tokenizer_config.json").read_text())
    write_tokenizer(tmp_path / "older", "XLMRobertaTokenizerFast", tmp_path / "again")
    reference = open_tokenizer(tmp_path / "source", "XLMRobertaTokenizerFast")
    texts = [*TEXTS, "  two  spaces ", "<mask> <s> x</s>"]
    for name in ("written", "again"):
        tokenizer = JsonTokenizer.from_folder(tmp_path / name)
        for length in (2, 5, 77):
            expected = reference(texts, padding="max_length", max_length=length, truncation=True)
            batch = tokenizer(texts, max_length=length)
            np.testing.assert_array_equal(batch.input_ids, expected["input_ids"])
            np.testing.assert_array_equal(batch.attention_mask, expected["attention_mask"])
        for text, ids in sentencepiece_ids():  # end token included, which XLM-R has at another place
            pieces = [3 if index == 2 else index + 1 for index in ids[:-1]]
            assert tokenizer([text], max_length=512).input_ids[0].tolist()[: len(ids) + 1] == [0, *pieces, 2], text


def test_mismatched_files_are_reported(folder):
    batch = JsonTokenizer.from_folder(folder)(["a", "a red apple on the table"], max_length=9)
    assert batch.truncated == ("", "able")


def test_length_is_that_of_the_config_by_default(folder, changed):
    tokenizer = JsonTokenizer.from_folder(folder)
    assert tokenizer.model_max_length == 512
    assert tokenizer(["x"]).input_ids.shape == (1, 512)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    unlimited = JsonTokenizer.from_folder(changed(tokenizer_config={**config, "model_max_length": 1e30}))
    with pytest.raises(InputError, match="its files name no model_max_length; pass max_length"):
        unlimited(["x"])
    with pytest.raises(InputError, match="max_length: got 1, expected 2 to 65536"):
        unlimited(["x"], max_length=1)


def test_sides_of_the_config(source, folder, changed):
    config = {**json.loads((folder / "tokenizer_config.json").read_text()), "padding_side": "left"}
    config["truncation_side"] = "left"
    reference = open_tokenizer(source, "T5TokenizerFast")
    reference.padding_side = reference.truncation_side = "left"
    expected = reference(TEXTS, padding="max_length", max_length=12, truncation=True)["input_ids"]
    ids = JsonTokenizer.from_folder(changed(tokenizer_config=config))(TEXTS, max_length=12).input_ids
    np.testing.assert_array_equal(ids, expected)


def test_files_that_are_refused(folder, changed, tmp_path):
    with pytest.raises(BundleError, match=r"got no file, expected tokenizer\.json"):
        JsonTokenizer.from_folder(tmp_path)
    saved = json.loads((folder / "tokenizer.json").read_text())
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Removed", "invert": False}
    with pytest.raises(BundleError, match=r"tokenizer\.json: got a regular expression, expected none"):
        JsonTokenizer.from_folder(changed(tokenizer={**saved, "pre_tokenizer": pattern}))
    with pytest.raises(BundleError, match=r"tokenizer\.json: no tokenizer of a known kind"):
        JsonTokenizer.from_folder(changed(tokenizer={**saved, "model": {"type": "Unknown"}}))
    with pytest.raises(BundleError, match=r"tokenizer_config\.json: pad_token is missing"):
        JsonTokenizer.from_folder(changed(tokenizer_config={}))
    with pytest.raises(BundleError, match=r"tokenizer\.json: got no token '<none>', expected the one that pads"):
        JsonTokenizer.from_folder(changed(tokenizer_config={"pad_token": "<none>"}))
