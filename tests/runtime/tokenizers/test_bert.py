"""BERT's WordPiece tokenizer against transformers: its fast class, and the older one in Python alone."""

import numpy as np
import pytest
import transformers
from bert_tokenizer import write_wordpiece
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from diffoundry.exporter.checkpoints.tokenizer_files import check_tokenizer_files, write_tokenizer
from diffoundry.runtime.tokenizers.tokenizer_json import JsonTokenizer

_PRIVATE = "\ue000 \U0010ffff a"
"""Characters that nobody assigned: a word of its own for the fast class, nothing for the older one."""

TEXTS = [
    "",
    " \t\r\n ",
    "The cat RUNNING, unaffable Painter!",
    "naïve CAFÉ, cafe\u0301 ２０２４ 苹果\tand\nnew lines  ",
    "İstanbul ı I ß ẞ ﬁ ŉ Ǆ й и\u0306",
    "[MASK] [SEP] the[CLS]cat [pad] [UNK]x",
    "x" * 99 + " " + "y" * 101,
    "very " * 90 + "long",
    "\x00\x07\u200b\u00ad\ufeff\ufffd a\u00a0b\u3000c\u2028d\u202ee",
    "don't stop: it's 100% fun – it’s ∑ 3٣ #hash ##ing @",
    "한국 한 🍎🍎 👩‍👩‍👧 𝔘𝔫𝔦 𠀀苹",
    "cat's-paw_under/score\\back`tick~{}|^",
    _PRIVATE,
]


@pytest.fixture(params=[True, False], ids=["uncased", "cased"])
def folders(request, tmp_path):
    """The checkpoint's folder, and the one that an export writes."""
    write_wordpiece(tmp_path / "source", do_lower_case=request.param)
    check_tokenizer_files(tmp_path / "source")
    write_tokenizer(tmp_path / "source", "BertTokenizer", tmp_path / "written")
    write_tokenizer(tmp_path / "written", "BertTokenizerFast", tmp_path / "again")
    return tmp_path


def test_ids_are_those_of_transformers(folders):
    fast = transformers.BertTokenizer.from_pretrained(folders / "source")
    slow = BertTokenizerLegacy.from_pretrained(folders / "source")
    ours = [JsonTokenizer.from_folder(folders / name) for name in ("written", "again")]
    used = set()
    for length in (2, 5, 77):
        options = {"padding": "max_length", "max_length": length, "truncation": True}
        expected = fast(TEXTS, **options)["input_ids"]
        if fast.do_lower_case:  # of other texts the older class composes accents first
            assert expected[:-1] == slow(TEXTS, **options)["input_ids"][:-1]
        for tokenizer in ours:
            ids = tokenizer(TEXTS, max_length=length).input_ids
            assert ids.dtype == np.int32
            np.testing.assert_array_equal(ids, expected)
        used |= {index for row in expected for index in row}
    assert len(used) > 60
    assert ours[0].model_max_length == 77
    truncated = ours[0](["a", "very " * 80], max_length=77).truncated
    assert truncated == ("", "very very very very very")
