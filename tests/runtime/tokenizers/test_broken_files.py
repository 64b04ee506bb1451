"""Broken and hostile tokenizer files: each is refused with a message that names file and fault."""

import json
import os

import pytest

from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.tokenizers.clip import ClipTokenizer, write_tokenizer_json

END = "<|endoftext|>"


def change(folder, name, **entries):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")


@pytest.fixture
def saved_folder(sd2_folder):
    """A folder whose only vocabulary is its tokenizer.json."""
    write_tokenizer_json(sd2_folder)
    (sd2_folder / "vocab.json").unlink()
    (sd2_folder / "merges.txt").unlink()
    return sd2_folder


def refused(folder, message):
    with pytest.raises(BundleError, match=message):
        ClipTokenizer.from_folder(folder)


def test_missing_folder(tmp_path):
    refused(tmp_path / "none", r"none: got nothing there, expected a folder with a CLIP tokenizer")


def test_file_instead_of_a_folder(emoji_folder):
    refused(emoji_folder / "vocab.json", r"vocab\.json: got a file there, expected a folder with a CLIP tokenizer")


def test_empty_folder(tmp_path):
    refused(tmp_path, r"got no file, expected tokenizer\.json, or vocab\.json and merges\.txt")


@pytest.mark.parametrize(("lost", "left"), [("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")])
def test_half_of_the_pair(plain_folder, lost, left):
    (plain_folder / lost).unlink()

    refused(plain_folder, f"tokenizer: got {left}, expected tokenizer.json, or vocab.json and merges.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_instead_of_a_file_does_not_block(plain_folder):
    (plain_folder / "vocab.json").unlink()
    os.mkfifo(plain_folder / "vocab.json")

    refused(plain_folder, r"got merges\.txt, expected")


def test_file_that_cannot_be_read(plain_folder):
    files = {"vocab.json": plain_folder, "merges.txt": plain_folder / "merges.txt"}

    with pytest.raises(BundleError, match=r"tokenizer: cannot be read \(.+\); copy or export it again"):
        ClipTokenizer.from_files(files, name="test")


NAMES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"a": ', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[1, 2]", r"the (file|vocabulary) is \[1, 2\], expected an object"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * (8 * 2**20 + 1), "got more than 8388608 bytes, expected a tokenizer; do not trust it"),
    ],
    ids=["empty", "cut", "no-utf8", "huge-number", "list", "deep", "large"],
)
def test_json_file_that_is_none(plain_folder, name, content, message):
    (plain_folder / name).write_bytes(content)

    refused(plain_folder, f"{name}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("#version: 0.2\nr e\nr e d\n", r"merge 2 is \['r', 'e', 'd'\], expected two tokens"),
        ("r e\n\ne d\n", r"merge 2 is \[''\], expected two tokens"),
        ("r e\nr zzz</w>\n", r"not a byte-pair encoding \(.*zzz</w>.*\)"),
        (b"r e\n\xff\xff\n", "not UTF-8 text"),
        (" " * (8 * 2**20 + 1), "got more than 8388608 bytes"),
    ],
    ids=["three", "blank", "unknown", "no-utf8", "large"],
)
def test_merges_that_are_none(plain_folder, content, message):
    (plain_folder / "merges.txt").write_bytes(content if isinstance(content, bytes) else content.encode())

    refused(plain_folder, rf"(merges\.txt|vocab\.json): {message}")


@pytest.mark.parametrize("index", ["7", -1, 2**31, 1.5, True, None, [1]])
def test_vocabulary_with_an_id_that_is_none(plain_folder, index):
    change(plain_folder, "vocab.json", odd=index)

    refused(plain_folder, r"vocab\.json: token 'odd' has the id .+, expected an integer from 0 to 2147483647")


def test_vocabulary_without_unknown_token(plain_folder):
    vocab = json.loads((plain_folder / "vocab.json").read_text(encoding="utf-8"))
    del vocab[END]
    (plain_folder / "vocab.json").write_text(json.dumps(vocab))

    refused(plain_folder, r"vocab\.json: got no token '<\|endoftext\|>', expected one for unknown bytes")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "model is None, expected an object"),
        ({"type": "Unigram", "vocab": []}, "model type is 'Unigram', expected 'BPE'; this is no CLIP tokenizer"),
        ({"vocab": {}, "merges": []}, "model type is None, expected 'BPE'"),
        ({"type": "BPE", "vocab": [], "merges": []}, r"the vocabulary is \[\], expected an object"),
        ({"type": "BPE", "vocab": {END: 0}}, "model.merges is None, expected a list"),
        ({"type": "BPE", "vocab": {END: 0}, "merges": [["a"]]}, r"merge 1 is \['a'\], expected two tokens"),
        ({"type": "BPE", "vocab": {END: 0}, "merges": [["a", 1]]}, "merge 1 is .*, expected two tokens"),
        ({"type": "BPE", "vocab": {END: 0}, "merges": ["a b c"]}, "merge 1 is .*, expected two tokens"),
        ({"type": "BPE", "vocab": {END: 0}, "merges": [7]}, "merge 1 is 7, expected two tokens"),
        ({"type": "BPE", "vocab": {END: 0}, "merges": [["a", "b"]]}, "not a byte-pair encoding"),
    ],
)
def test_saved_model_that_is_none(saved_folder, model, message):
    change(saved_folder, "tokenizer.json", model=model)

    refused(saved_folder, rf"tokenizer\.json: {message}")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (None, "added_tokens is None, expected a list"),
        ([7], "added_tokens is 7, expected an object"),
        ([{"content": "<x>"}], "the id of an added token is None, expected an integer"),
        ([{"id": "1", "content": "<x>"}], "the id of an added token is '1', expected an integer"),
        ([{"id": 1}], "added_tokens: content is None, expected a string"),
        ([{"id": 1, "content": "<x>", "lstrip": "yes"}], "added_tokens: lstrip is 'yes', expected true or false"),
        (
            [{"id": 1, "content": "<x>", "code": "x"}],
            "added_tokens: got the unknown field 'code', expected single_word",
        ),
    ],
)
def test_saved_added_tokens_that_are_none(saved_folder, tokens, message):
    change(saved_folder, "tokenizer.json", added_tokens=tokens)

    refused(saved_folder, rf"tokenizer\.json: {message}")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model_max_length": "77"}, "model_max_length is '77', expected an integer from 2 to 65536"),
        ({"model_max_length": 77.0}, "model_max_length is 77.0, expected an integer"),
        ({"model_max_length": 1}, "model_max_length is 1, expected an integer from 2"),
        ({"model_max_length": 10**9}, "model_max_length is 1000000000, expected an integer from 2 to 65536"),
        ({"padding_side": "top"}, "padding_side is 'top', expected 'left' or 'right'"),
        ({"truncation_side": ["left"]}, r"truncation_side is \['left'\], expected 'left' or 'right'"),
        ({"split_special_tokens": 1}, "split_special_tokens is 1, expected true or false"),
        ({"bos_token": 7}, "bos_token is 7, expected an object"),
        ({"added_tokens_decoder": []}, r"added_tokens_decoder is \[\], expected an object"),
        (
            {"added_tokens_decoder": {"one": {"content": "<x>"}}},
            "added_tokens_decoder has the key 'one', expected an id",
        ),
        (
            {"added_tokens_decoder": {"9" * 5000: {"content": "<x>"}}},
            r"added_tokens_decoder has the key '9+\.\.\., expected an id",
        ),
        ({"added_tokens_decoder": {"1": "<x>"}}, "added_tokens_decoder is '<x>', expected an object"),
        ({"extra_special_tokens": {"a": "<a>"}}, "extra_special_tokens is {'a': '<a>'}, expected a list"),
    ],
)
def test_config_entry_that_is_none(sd2_folder, entries, message):
    change(sd2_folder, "tokenizer_config.json", **entries)

    refused(sd2_folder, rf"tokenizer_config\.json: {message}")


@pytest.mark.parametrize("role", ["bos_token", "eos_token", "unk_token", "pad_token"])
def test_null_role(sd2_folder, role):
    (sd2_folder / "special_tokens_map.json").unlink()
    change(sd2_folder, "tokenizer_config.json", **{role: None})

    refused(sd2_folder, rf"tokenizer_config\.json: {role} is null, expected a token such as '<\|")


def test_special_token_that_is_none(sd2_folder):
    change(sd2_folder, "special_tokens_map.json", pad_token={"content": 7})

    refused(sd2_folder, r"special_tokens_map\.json: pad_token: content is 7, expected a string")


def test_added_token_that_is_none(sd2_folder):
    (sd2_folder / "added_tokens.json").write_text('{"<x>": "7"}')

    refused(sd2_folder, r"added_tokens\.json: <x> is '7', expected an integer")


def test_message_of_a_hostile_value_is_short(sd2_folder):
    change(sd2_folder, "tokenizer_config.json", padding_side="x" * 1_000_000)

    with pytest.raises(BundleError) as caught:
        ClipTokenizer.from_folder(sd2_folder)

    assert len(str(caught.value)) < len(str(sd2_folder)) + 300


def test_regular_expressions_and_templates_of_tokenizer_json_are_not_used(saved_folder):
    before = ClipTokenizer.from_folder(saved_folder)(["A red, red apple!"]).input_ids
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Removed", "invert": False}
    change(saved_folder, "tokenizer.json", normalizer=None, pre_tokenizer=split, post_processor={"type": "nonsense"})

    after = ClipTokenizer.from_folder(saved_folder)(["A red, red apple!"]).input_ids

    assert after.tolist() == before.tolist()


def test_failed_write_leaves_no_tokenizer_json(plain_folder, monkeypatch):
    def fill_the_disk(self, text, **options):
        with self.open("w", encoding="utf-8") as stream:
            stream.write(text[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        write_tokenizer_json(plain_folder)

    assert not (plain_folder / "tokenizer.json").exists()


@pytest.mark.parametrize("role", ["bos_token", "eos_token", "pad_token"])
def test_an_empty_special_token(sd2_folder, role):
    (sd2_folder / "special_tokens_map.json").unlink()
    change(sd2_folder, "tokenizer_config.json", **{role: ""})

    refused(sd2_folder, "got the special token '', expected a text that can be added to the vocabulary")
