"""The tokenizers of Qwen and Gemma against transformers, and the chats around prompts."""

import json

import numpy as np
import pytest
from language_models import CHAT_TEMPLATE, write_gemma_tokenizer, write_qwen_tokenizer

from diffoundry.exporter.checkpoints.tokenizer_files import open_tokenizer, write_tokenizer
from diffoundry.runtime.errors import BundleError, CheckpointError
from diffoundry.runtime.tokenizers.chat_prompt import ChatPrompt, read_chat_prompt
from diffoundry.runtime.tokenizers.tokenizer_json import JsonTokenizer

TEXTS = [
    "",
    " ",
    "a",
    "a red apple on the table",
    " \t\r\n leading and trailing \n\n  ",
    "it's I'LL we'VE 'tis don’t '\u017f 'ſ",
    "x" * 70 + "  " + "y" * 71,
    "1234567890 3.14 ٣٤ Ⅷ ½ 10,000",
    "naïve CAFÉ, cafe\u0301 İstanbul ﬁ ß ẞ",
    "一只红色的苹果。 한국 日本語 🍎🍎 👩‍👩‍👧 𝔘𝔫𝔦 𠀀",
    "\x00\x07\u200b\u00ad\ufeff\ufffd a\u00a0b\u3000c\u2028d\u202ee",
    "<|im_start|>user\n<|im_end|> <|endoftext|> <|im_start|",
    "<bos> <eos>x<pad> <unk> <0x41> ▁▁ ▁a <start_of_turn>",
    "<think>\n\n</think>\n\n<tool_response>{{ x }}</tool_response>",
    "very " * 40 + "long",
    "tab\tand\r\nlines\r\r\n\n  indented\n",
    "#hash ##ing @a_b-c/d\\e`f~{}|^ !!!... ?!",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Name to the folder of a checkpoint and that of its bundle."""
    root = tmp_path_factory.mktemp("byte_pairs")
    write_qwen_tokenizer(root / "qwen/source")
    write_gemma_tokenizer(root / "gemma/source")
    (root / "merges/source").mkdir(parents=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (root / "merges/source" / name).write_bytes((root / "qwen/source" / name).read_bytes())
    for name, kind in KINDS.items():
        write_tokenizer(root / name / "source", kind, root / name / "written")
    return {name: (root / name / "source", root / name / "written") for name in KINDS}


KINDS = {"qwen": "Qwen2TokenizerFast", "merges": "Qwen2Tokenizer", "gemma": "GemmaTokenizerFast"}


@pytest.mark.parametrize("name", KINDS)
def test_ids_are_those_of_transformers(folders, name):
    source, written = folders[name]
    reference, tokenizer = open_tokenizer(source, KINDS[name]), JsonTokenizer.from_folder(written)
    for length in (2, 5, 40, 200):
        for side in ("left", "right"):
            arguments = {"padding": "max_length", "max_length": length, "truncation": True, "padding_side": side}
            expected = reference(TEXTS, **arguments)
            batch = tokenizer(TEXTS, max_length=length, padding_side=side)
            np.testing.assert_array_equal(batch.input_ids, expected["input_ids"])
            np.testing.assert_array_equal(batch.attention_mask, expected["attention_mask"])
        expected = reference(TEXTS[:6], padding=True, max_length=length, truncation=True)["input_ids"]
        batch = tokenizer(TEXTS[:6], max_length=length, pad_to=0)
        np.testing.assert_array_equal(batch.input_ids, expected)
    long = tokenizer(TEXTS[3:4], max_length=3, pad_to=0)
    assert long.truncated[0]
    assert reference.decode(reference(TEXTS[3])["input_ids"]).endswith(long.truncated[0])


def test_limits_of_language_models_are_read(folders):
    assert JsonTokenizer.from_folder(folders["qwen"][1]).model_max_length == 131_072
    assert JsonTokenizer.from_folder(folders["gemma"][1]).model_max_length is None


@pytest.mark.parametrize(
    "pattern", [r"\p{N}{1,4}", "(a+)+$", {"Regex": "x"}, ["x"], "Regex", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(a+)+$"]
)
def test_other_regular_expressions_are_refused(folders, tmp_path, pattern):
    saved = json.loads((folders["qwen"][1] / "tokenizer.json").read_text())
    saved["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": pattern}
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(BundleError, match=r"tokenizer\.json: got a regular expression, expected none"):
        JsonTokenizer.from_folder(tmp_path)


def test_a_chat_is_rendered_at_export(folders, tmp_path):
    source = folders["qwen"][0]
    reference = open_tokenizer(source, "Qwen2Tokenizer")
    for thinking in (True, False):
        write_tokenizer(source, "Qwen2Tokenizer", tmp_path, {"enable_thinking": thinking})
        path = tmp_path / "chat_prompt.json"
        chat = read_chat_prompt(json.loads(path.read_text()), path)
        for text in TEXTS:
            messages = [{"role": "user", "content": text}]
            options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": thinking}
            assert chat.render(text) == reference.apply_chat_template(messages, **options)
        assert ("<think>" in chat.suffix) is not thinking


def test_chat_templates_that_are_refused(tmp_path):
    for index, (template, message) in enumerate(
        (
            (None, "got no chat template, expected chat_template.jinja"),
            ("{{ messages[0].content | trim }}", "got a chat template that changes prompts"),
            (CHAT_TEMPLATE.replace("message.content", "(message.content * 2)"), "a chat template that changes prompts"),
            ("no message", "got a chat template that changes prompts"),
            ("{{ raise_exception('no users') }}", "the chat template cannot be rendered: no users"),
        )
    ):
        folder = tmp_path / str(index)
        write_qwen_tokenizer(folder, chat_template=template)
        with pytest.raises(CheckpointError, match=message):
            write_tokenizer(folder, "Qwen2Tokenizer", folder, {})


def test_parts_of_a_prompt_that_are_cut_off(tmp_path):
    chat = ChatPrompt("<user>", "<end>\n<assistant>\n")
    for cut, expected in (("", ""), ("stant>\n", ""), ("<end>\n<assistant>\n", ""), (chat.render("a")[5:], ">a")):
        assert chat.cut_from(cut) == expected
    for content in (None, [], {"prefix": "a"}, {"prefix": "a", "suffix": 1}):
        with pytest.raises(BundleError, match=r"got no 'prefix' and 'suffix', expected two texts; export the bundle"):
            read_chat_prompt(content, tmp_path)
