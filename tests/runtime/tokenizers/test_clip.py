"""The CLIP tokenizer against transformers' class, opened from the same folder."""

import shutil
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scheduler_harness.tables import check_each
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.tokenizers.clip import ClipTokenizer, write_tokenizer_json

ODD = {
    "plain": "a photo of a red apple on a green background",
    "empty": "",
    "blank": " \t\n\u00a0\u2003 ",
    "emoji": "😀👍🏽👨‍👩‍👧‍👦🏴‍☠️🇩🇪 smiling",
    "cjk": "一只坐在红苹果上的猫 猫が赤いリンゴの上に 고양이가 사과 위에",
    "right-to-left": "قطة حمراء تجلس חתול אדום \u202eabc\u202c",
    "control": "a\x00b\x01\x02\x1b[31m\x7f\x85 red\x0b\x0capple\ufeff",
    "combining": "cafe\u0301 naïve Z̸̢̛a̴͖l̶g̷o̵ " + "e" + "\u0301" * 40,
    "compatibility": "ﬁne ① ½ ℌ ＡＢＣ Å Å \u1e9e İstanbul ǅ ς",
    "zero-width": "a\u200bb\u200cc\u200dd\u2060e \u00ad soft",
    "end token": "a red <|endoftext|> apple <|startoftext|> !<|endoftext|>!",
    "upper end token": "a <|ENDOFTEXT|> <|EndOfText|> apple<|startoftext|",
    "upper": "A RED APPLE, ÄÖÜ ΑΒΓ, IT'S DON'T WE'LL",
    "html": "&lt;b&gt; &amp;amp; &quot;red&quot; &#39; <b>apple</b> &nbsp;",
    "digits": "12345 3.14159 1,000,000 ٣٤٥ 五 Ⅷ ²³",
    "repeated": "!!! ??? ....... !?!?!? ----- ''''' \"\"\" ,,,, $$$",
    "apostrophes": "it's it’s don't we're I'm they'll he'd 's 't ''s",
    "word ends": "red</w> </w> apple</w>apple",
    "added": "a <cat-toy> <CAT-TOY>! <NEW> and <new> Bergkäse BERGKÄSE <style><a> <b><cls>x",
    "weighted": "(red:1.3) [apple] {green} <lora:house:0.8> BREAK a_b-c/d\\e",
    "private": "\ue000\U0010ffff\ufffd \U000e0061",
    "exactly 75": " ".join(["red"] * 75),
    "one too many": " ".join(["red"] * 74 + ["green", "apple"]),
    "long": "a photo of the red apple and house, with background! " * 40,
    "long ends": "apple " * 90 + "😀 <|endoftext|> 猫 don't!!!",
    "long word": "apple" * 700,
    "long emoji": "👨‍👩‍👧‍👦" * 30,
}


@pytest.fixture(scope="module")
def tokenizer(folder):
    return ClipTokenizer.from_folder(folder)


def expected_ids(reference, texts, length):
    batch = reference(texts, padding="max_length", max_length=length, truncation=True, return_tensors="np")
    return batch.input_ids


def removed_text(reference, text, length):
    """Warnings of `StableDiffusionPipeline.encode_prompt` of diffusers 0.42.1."""
    ids = reference(text, padding="max_length", max_length=length, truncation=True, return_tensors="np").input_ids
    whole = reference(text, padding="longest", return_tensors="np").input_ids
    if whole.shape[-1] >= ids.shape[-1] and not np.array_equal(ids, whole):
        return reference.batch_decode(whole[:, length - 1 : -1])[0]
    return ""


def test_ids_and_cut_text_equal_transformers(tokenizer, reference):
    def check(name):
        batch = tokenizer([ODD[name]], max_length=77)

        assert batch.input_ids.dtype == np.int32
        np.testing.assert_array_equal(batch.input_ids, expected_ids(reference, [ODD[name]], 77))
        if reference.truncation_side == "right":
            assert batch.truncated == (removed_text(reference, ODD[name], 77),)

    check_each(ODD, check)


def test_batch_equals_transformers(tokenizer, reference):
    texts = list(ODD.values())

    batch = tokenizer(texts, max_length=77)

    np.testing.assert_array_equal(batch.input_ids, expected_ids(reference, texts, 77))
    expected = reference(texts, padding="max_length", max_length=77, truncation=True, return_tensors="np")
    np.testing.assert_array_equal(batch.attention_mask, expected["attention_mask"])
    assert batch.truncated == tuple(tokenizer([text], max_length=77).truncated[0] for text in texts)


def test_other_lengths_equal_transformers(tokenizer, reference):
    texts = [ODD["long ends"], ODD["empty"], ODD["plain"]]

    def check(length):
        ids = tokenizer(texts, max_length=length).input_ids
        np.testing.assert_array_equal(ids, expected_ids(reference, texts, length))

    check_each([2, 3, 5, 16, 248, 4096], check)


def test_length_and_special_ids_equal_transformers(tokenizer, reference):
    limit = reference.model_max_length

    assert tokenizer.model_max_length == (limit if limit < 10**20 else None)
    assert tokenizer.pad_token_id == reference.pad_token_id
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (reference.bos_token_id, reference.eos_token_id)


@pytest.mark.slow_cases("unlimited", "plain", "left", "saved", "old_saved", "typed", "split")
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(st.text(max_size=120), min_size=1, max_size=4))
def test_any_text_equals_transformers(tokenizer, reference, texts):
    texts = [text.encode("utf-8", "replace").decode() for text in texts]

    batch = tokenizer(texts, max_length=77)

    np.testing.assert_array_equal(batch.input_ids, expected_ids(reference, texts, 77))


PIECES = st.sampled_from(
    ["<|endoftext|>", "<|STARTOFTEXT|>", "<|", "!", "</w>", "'s", " ", "red", "É", "\u0301", "<cat-toy>", "猫"]
)


@pytest.mark.slow_cases("unlimited", "plain", "left", "saved", "old_saved", "typed", "split")
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pieces=st.lists(PIECES, max_size=40))
def test_any_mix_of_special_pieces_equals_transformers(tokenizer, reference, pieces):
    text = "".join(pieces)

    batch = tokenizer([text], max_length=12)

    np.testing.assert_array_equal(batch.input_ids, expected_ids(reference, [text], 12))
    if reference.truncation_side == "right":
        assert batch.truncated == (removed_text(reference, text, 12),)


def test_every_character_equals_transformers(emoji_folder):
    """All of Unicode, each between letters: normalisation, lower-casing and splitting depend on the character."""
    ours, theirs = ClipTokenizer.from_folder(emoji_folder), CLIPTokenizer.from_pretrained(emoji_folder)
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
    assigned = [character for character in characters if unicodedata.category(character) not in ("Cn", "Co")]
    texts = [" ".join(f"A{character}b" for character in assigned[i : i + 1500]) for i in range(0, len(assigned), 1500)]

    for text in texts:
        expected = theirs(text).input_ids
        assert len(expected) < 2**16
        assert ours([text], max_length=len(expected)).input_ids[0].tolist() == expected


def test_truncated_text_equals_the_warning_of_the_diffusers_pipeline(emoji_folder, monkeypatch):
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion as upstream

    warned = []
    config = CLIPTextConfig(
        vocab_size=4295, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    reference = CLIPTokenizer.from_pretrained(emoji_folder)
    pipeline = upstream.StableDiffusionPipeline(
        vae=None,
        text_encoder=CLIPTextModel(config),
        tokenizer=reference,
        unet=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    monkeypatch.setattr(upstream.logger, "warning", warned.append)
    pipeline.encode_prompt(ODD["long ends"], "cpu", 1, False)

    (cut,) = ClipTokenizer.from_folder(emoji_folder)([ODD["long ends"]]).truncated

    intro = "The following part of your input was truncated because CLIP can only handle sequences up to 77 tokens"
    assert warned == [f"{intro}: {[cut]}"]
    assert cut.startswith("apple")
    assert cut.endswith("!!!")


def test_padding_of_sd2_is_the_exclamation_mark(sd2_folder):
    tokenizer = ClipTokenizer.from_folder(sd2_folder)

    ids = tokenizer(["red"]).input_ids[0]

    assert tokenizer.pad_token_id == 0
    assert ids[3:].tolist() == [0] * 74
    assert ids[2] == tokenizer.eos_token_id


def test_only_the_named_files_are_read(sd2_folder):
    named = {name: sd2_folder / name for name in ("vocab.json", "merges.txt", "tokenizer_config.json")}

    assert ClipTokenizer.from_folder(sd2_folder).pad_token_id == 0
    tokenizer = ClipTokenizer.from_files(named, name="the bundle's")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize(
    "folder",
    ["emoji", "plain", "sd1", "sd2", "turbo", "inversion", "left", "split", "typed", "unlimited"],
    indirect=True,
)
def test_written_tokenizer_json_keeps_the_ids_and_is_transformers_own(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("tokenizer.json"))
    before = ClipTokenizer.from_folder(copy)
    reference = CLIPTokenizer.from_pretrained(copy)

    assert write_tokenizer_json(copy) == copy / "tokenizer.json"

    texts = list(ODD.values())
    expected = expected_ids(reference, texts, 77)
    np.testing.assert_array_equal(before(texts, max_length=77).input_ids, expected)
    np.testing.assert_array_equal(ClipTokenizer.from_folder(copy)(texts, max_length=77).input_ids, expected)
    np.testing.assert_array_equal(expected_ids(CLIPTokenizer.from_pretrained(copy), texts, 77), expected)
    reference.backend_tokenizer.no_padding()
    reference.backend_tokenizer.no_truncation()
    assert (copy / "tokenizer.json").read_text(encoding="utf-8") == reference.backend_tokenizer.to_str(pretty=True)
    assert {path.name for path in copy.iterdir()} == {path.name for path in folder.iterdir()} | {"tokenizer.json"}


def test_tokenizer_json_that_is_there_is_left_alone(emoji_folder, tmp_path):
    text = (emoji_folder / "tokenizer.json").read_bytes() + b"\n"
    (tmp_path / "tokenizer.json").write_bytes(text)

    write_tokenizer_json(tmp_path)

    assert (tmp_path / "tokenizer.json").read_bytes() == text


def test_threads_share_one_tokenizer(emoji_folder):
    tokenizer = ClipTokenizer.from_folder(emoji_folder)
    jobs = [(text, length) for length in (8, 77, 20) for text in ODD.values()] * 8
    alone = [tokenizer([text], max_length=length) for text, length in jobs]

    with ThreadPoolExecutor(8) as pool:
        shared = list(pool.map(lambda job: tokenizer([job[0]], max_length=job[1]), jobs))

    for one, other in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(one.input_ids, other.input_ids)
        assert one.truncated == other.truncated


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a red apple", "prompts: got str, expected a list .* brackets"),
        ([], "prompts: got an empty one, expected a list"),
        (None, "prompts: got NoneType, expected a list"),
        ([3], "prompt 0: got int, expected a text"),
        (["red", b"apple"], "prompt 1: got bytes, expected a text"),
        (["red", "app\ud83dle"], r"prompt 1: got half of a surrogate pair at character 3 \('\\ud83d'\)"),
    ],
)
def test_prompts_that_are_no_texts_are_refused(emoji_folder, texts, message):
    with pytest.raises(InputError, match=message):
        ClipTokenizer.from_folder(emoji_folder)(texts)


@pytest.mark.parametrize("length", [-1, 0, 1, 2**16 + 1])
def test_impossible_length_is_refused(emoji_folder, length):
    with pytest.raises(InputError, match=f"max_length: got {length}, expected 2 to 65536"):
        ClipTokenizer.from_folder(emoji_folder)(["red"], max_length=length)


def test_length_must_be_given_when_the_files_name_none(plain_folder):
    with pytest.raises(InputError, match=r"tokenizer .*tokenizer: its files name no model_max_length; pass max_length"):
        ClipTokenizer.from_folder(plain_folder)(["red"])
