"""Tokenizer folders of every generation: made from one small CLIP vocabulary, and the embedded model's."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"

WORDS = (
    *("red", "green", "apple", "house", "sitting", "photo", "of", "the", "and", "with", "background", "it's", "don't"),
    *("00", "...", "!!!", "café", "naïve", "猫", "😀", "ß"),
)


def byte_letters():
    """The 256 printable letters for bytes, in the order of OpenAI's vocabulary ("!" is 0)."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in kept]
    letters = {byte: chr(byte) for byte in kept} | {byte: chr(256 + i) for i, byte in enumerate(rest)}
    return [letters[byte] for byte in (*kept, *rest)], letters


def make_vocabulary():
    """Vocabulary and merges laid out as OpenAI's: letters, letters that end a word, merges, start, end."""
    alphabet, letters = byte_letters()
    merges = []
    for word in WORDS:
        parts = [letters[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            parts[:2] = ["".join(pair)]
            if pair not in merges:
                merges.append(pair)
    tokens = dict.fromkeys([*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(m) for m in merges)])
    return {token: index for index, token in enumerate([*tokens, BOS, EOS])}, merges


def added(content, **flags):
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, **flags}


def write_plain(folder: Path):
    """vocab.json and merges.txt only."""
    vocab, merges = make_vocabulary()
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return folder


def write_config(folder: Path, *, name="tokenizer_config.json", **entries):
    (folder / name).write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")


def sd1(folder):
    """Stable Diffusion 1.x of 2022: tokens as typed objects, repeated in special_tokens_map.json."""
    typed = {"__type": "AddedToken"}
    write_plain(folder)
    write_config(
        folder,
        add_prefix_space=False,
        bos_token=added(BOS) | typed,
        eos_token=added(EOS) | typed,
        unk_token=added(EOS) | typed,
        pad_token=EOS,
        do_lower_case=True,
        errors="replace",
        model_max_length=77,
        tokenizer_class="CLIPTokenizer",
    )
    write_config(
        folder,
        name="special_tokens_map.json",
        bos_token=added(BOS),
        eos_token=added(EOS),
        unk_token=added(EOS),
        pad_token=EOS,
    )


def sd2(folder):
    """Stable Diffusion 2.x: special_tokens_map.json overrides the padding with "!"."""
    sd1(folder)
    entries = json.loads((folder / "special_tokens_map.json").read_text())
    write_config(folder, name="special_tokens_map.json", **(entries | {"pad_token": "!"}))


def turbo(folder):
    """transformers since 4.34: added_tokens_decoder in the config rules, special_tokens_map.json is not read."""
    sd2(folder)
    vocab, _ = make_vocabulary()
    flags = {"0": ("!", False), str(vocab[BOS]): (BOS, True), str(vocab[EOS]): (EOS, True)}
    decoder = {key: added(text, normalized=normalized, special=True) for key, (text, normalized) in flags.items()}
    write_config(
        folder,
        added_tokens_decoder=decoder,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=EOS,
        pad_token="!",
        model_max_length=77,
    )
    write_config(folder, name="special_tokens_map.json", pad_token="?")


def inversion(folder):
    """Textual inversion: new tokens, one special, one matched after lower-casing, in added_tokens.json."""
    sd1(folder)
    size = len(make_vocabulary()[0])
    write_config(folder, name="added_tokens.json", **{"<cat-toy>": size + 1, "Bergkäse": size})
    entries = json.loads((folder / "special_tokens_map.json").read_text())
    write_config(folder, name="special_tokens_map.json", **entries, additional_special_tokens=["<cat-toy>", "<new>"])


def saved(folder):
    """Files that transformers saves now: tokenizer.json and a config."""
    source = folder.parent / f"{folder.name}-source"
    inversion(source)
    CLIPTokenizer.from_pretrained(source).save_pretrained(folder)


def old_saved(folder):
    """tokenizer.json of an older generation beside the legacy files: merges are strings, settings are stored."""
    saved(folder)
    (folder / "tokenizer_config.json").unlink()
    shutil.copy(folder.parent / f"{folder.name}-source" / "special_tokens_map.json", folder)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    data["truncation"] = {"direction": "Left", "max_length": 77, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {
        "strategy": {"Fixed": 77},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 7,
        "pad_type_id": 0,
        "pad_token": "(",
    }
    data["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")


def left(folder):
    """Both sides turned round."""
    sd2(folder)
    entries = json.loads((folder / "tokenizer_config.json").read_text())
    write_config(folder, **(entries | {"padding_side": "left", "truncation_side": "left"}))


def split(folder):
    """Special tokens in a prompt are plain text."""
    turbo(folder)
    entries = json.loads((folder / "tokenizer_config.json").read_text())
    write_config(folder, **(entries | {"split_special_tokens": True}))


def typed(folder):
    """Tokens as typed objects in the config alone, without the flag that they are special, on a Windows disk."""
    sd1(folder)
    (folder / "special_tokens_map.json").unlink()
    entries = json.loads((folder / "tokenizer_config.json").read_text())
    write_config(folder, **(entries | {"split_special_tokens": True}))
    merges = folder / "merges.txt"
    merges.write_bytes(merges.read_bytes().replace(b"\n", b"\r\n"))


def unlimited(folder):
    """transformers' way to write that there is no limit, and a custom named token."""
    write_plain(folder)
    write_config(
        folder,
        model_max_length=1000000000000000019884624838656,
        style_token="<style>",
        extra_special_tokens=["<a>", "<b>"],
        cls_token="<cls>",
    )


MAKERS = (write_plain, sd1, sd2, turbo, inversion, saved, old_saved, left, split, typed, unlimited)


@pytest.fixture(scope="session")
def emoji_folder():
    """The tokenizer of the embedded model."""
    return Path(__file__).parents[3] / "models" / "emoji" / "tokenizer"


@pytest.fixture(scope="session", params=["emoji", *(maker.__name__.removeprefix("write_") for maker in MAKERS)])
def folder(request, tmp_path_factory, emoji_folder):
    """Each kind of tokenizer folder."""
    if request.param == "emoji":
        return emoji_folder
    path = tmp_path_factory.mktemp("tokenizers") / request.param
    next(maker for maker in MAKERS if maker.__name__.removeprefix("write_") == request.param)(path)
    return path


@pytest.fixture
def plain_folder(tmp_path):
    """A fresh folder with vocab.json and merges.txt, to be damaged."""
    return write_plain(tmp_path / "tokenizer")


@pytest.fixture
def sd2_folder(tmp_path):
    """A fresh folder as Stable Diffusion 2.x has it."""
    sd2(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture(scope="session")
def reference(folder):
    """transformers' tokenizer of the same folder."""
    return CLIPTokenizer.from_pretrained(folder)
