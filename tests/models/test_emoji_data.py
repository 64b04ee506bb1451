"""The emoji model's data: npm packages, their join, images, captions, tokenizer."""

import base64
import collections
import hashlib
import io
import json
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from diffoundry.runtime.errors import CheckpointError, DiffoundryError  # noqa: E402
from diffoundry_models.emoji.training import data, fetch, vocabulary  # noqa: E402


@pytest.fixture
def emoji(data_folder):
    return data.load_emoji(data_folder)


def _package(archive: bytes) -> fetch.NpmPackage:
    return fetch.NpmPackage(
        name="@scope/thing",
        version="1.2.3",
        integrity=base64.b64encode(hashlib.sha512(archive).digest()).decode(),
        members=("package/wanted/",),
    )


def _archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ("package/wanted/a.txt", "package/other/b.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"abc"))
    return buffer.getvalue()


def _fake_npm(folder, monkeypatch, body: str) -> None:
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{body}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_fetch_unpacks_the_wanted_members_once(tmp_path, monkeypatch):
    (tmp_path / "thing.tgz").write_bytes(_archive())
    calls = tmp_path / "calls"
    _fake_npm(tmp_path / "bin", monkeypatch, f'echo "$@" >> {calls}; cp {tmp_path}/thing.tgz "$4"/')
    for _ in range(2):
        place = fetch.fetch(_package(_archive()), tmp_path / "cache")
    assert place == tmp_path / "cache" / "thing-1.2.3"
    assert [p.relative_to(place).as_posix() for p in place.rglob("*.txt")] == ["wanted/a.txt"]
    assert calls.read_text().count("pack @scope/thing@1.2.3") == 1
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["thing-1.2.3"]


def test_fetch_refuses_another_archive(tmp_path, monkeypatch):
    (tmp_path / "thing.tgz").write_bytes(_archive() + b"more")
    _fake_npm(tmp_path / "bin", monkeypatch, f'cp {tmp_path}/thing.tgz "$4"/')
    with pytest.raises(DiffoundryError, match=r"@scope/thing 1.2.3 has SHA-512 .*, expected .*npm cache clean"):
        fetch.fetch(_package(_archive()), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_fetch_says_that_npm_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DiffoundryError, match=r"needs the command 'npm', .*Install Node.js.*thing-1.2.3 by hand"):
        fetch.fetch(_package(b""), tmp_path)


def test_fetch_repeats_the_error_of_npm(tmp_path, monkeypatch):
    _fake_npm(tmp_path / "bin", monkeypatch, 'echo "npm error code E404" >&2; exit 1')
    with pytest.raises(DiffoundryError, match=r"npm could not fetch @scope/thing 1.2.3 \(exit code 1\).*E404.*network"):
        fetch.fetch(_package(b""), tmp_path / "cache")


def test_join_takes_one_code_point_with_or_without_the_selector(emoji):
    assert [one.label for one in emoji] == ["red heart", "christmas tree", "droplet", "sun"]
    assert [one.file.stem for one in emoji] == ["2764-fe0f", "1f384", "1f4a7", "2600-fe0f"]
    assert emoji[2].tags == ("tag3", "shared")


def test_join_names_missing_files(tmp_path, data_folder):
    table = data_folder / "emojibase-data-17.0.0" / "en" / "data.json"
    with pytest.raises(DiffoundryError, match="lacks .*nowhere"):
        data.base_emoji(tmp_path / "nowhere", table)
    with pytest.raises(DiffoundryError, match="No label of .* do not fit together"):
        data.base_emoji(tmp_path, table)


def test_select_keeps_the_order_of_the_labels(emoji):
    assert [one.label for one in data.select(emoji, ["sun", "red heart"])] == ["sun", "red heart"]
    with pytest.raises(DiffoundryError, match="2 of 3 labels have no image, the first is 'phantom'"):
        data.select(emoji, ["sun", "phantom", "flag: finland"])


def test_captions_file_comes_back_and_has_the_shipped_form(emoji, tmp_path):
    data.write_captions(emoji, tmp_path / "captions.json")
    assert data.read_labels(tmp_path / "captions.json") == [one.label for one in emoji]
    shipped = json.loads(_shipped().read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "captions.json").read_text())[0].keys() == shipped[0].keys()


def _shipped():
    from diffoundry_models.emoji.training.checkpoint import SHIPPED

    return SHIPPED / "captions.json"


@pytest.mark.parametrize("text", ["", "{}", "7", "[1]", '[{"tags": []}]'])
def test_captions_of_another_form_are_refused(tmp_path, text):
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(CheckpointError, match="captions.json is not a list of objects with a 'label'"):
        data.read_labels(tmp_path / "captions.json")


def test_image_is_on_white_inside_a_frame_of_two(tmp_path):
    Image.new("RGBA", (256, 256), (200, 0, 0, 128)).save(tmp_path / "half.webp", lossless=True)
    got = data.image(tmp_path / "half.webp")
    assert got.shape == (3, 64, 64)
    assert got.dtype == np.uint8
    inner = got[:, 2:62, 2:62]
    # 128 / 255 of the colour over white.
    np.testing.assert_allclose(inner.reshape(3, -1).mean(1), [227.4, 127, 127], atol=1)
    assert inner.std(axis=(1, 2)).max() < 1
    assert got.sum() - inner.sum(dtype=np.int64) == 255 * 3 * (64 * 64 - 60 * 60)


def test_images_span_minus_one_to_one(emoji):
    stack = data.images(emoji)
    assert stack.shape == (4, 3, 64, 64)
    assert stack.dtype == torch.float32
    assert stack.max() == 1.0
    assert -1.0 <= stack.min() < 0.0


def test_captions_are_drawn_in_the_stated_shares():
    one = data.Emoji(label="sun", tags=("bright", "rays", "warm", "day"), file=None)
    generator = torch.Generator().manual_seed(5)
    count = 20_000
    drawn = collections.Counter(data.draw_caption(one, generator) for _ in range(count))
    labels = {template.format("sun"): drawn.pop(template.format("sun")) for template in data.TEMPLATES}
    empty = drawn.pop("")
    tags = sum(drawn.values())
    # Three standard deviations of a share around 0.1 to 0.2 over 20,000 draws are below 0.009.
    assert empty / count == pytest.approx(0.10, abs=0.009)
    assert tags / count == pytest.approx(0.90 * 0.15, abs=0.009)
    assert all(n / count == pytest.approx(0.90 * 0.85 / 4, abs=0.009) for n in labels.values())
    words = [text.split() for text in drawn]
    assert {len(w) for w in words} == {1, 2, 3}
    assert all(len(set(w)) == len(w) and set(w) <= set(one.tags) for w in words)


def test_an_emoji_without_tags_is_captioned_by_its_label():
    one = data.Emoji(label="sun", tags=(), file=None)
    generator = torch.Generator().manual_seed(5)
    assert {data.draw_caption(one, generator) for _ in range(300)} == {
        "",
        *(template.format("sun") for template in data.TEMPLATES),
    }


def test_tokenizer_has_clips_form(emoji, tmp_path):
    from transformers import CLIPTokenizer

    made = vocabulary.train_tokenizer(emoji * 3, size=600)
    vocabulary.write_tokenizer(made, tmp_path)
    read = CLIPTokenizer.from_pretrained(tmp_path)
    entries = sorted(read.get_vocab(), key=read.get_vocab().get)
    shipped = json.loads((_shipped().parent / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    assert entries[:512] == sorted(shipped, key=shipped.get)[:512]
    assert entries[-2:] == list(vocabulary.SPECIALS)
    assert 514 < len(entries) <= 600
    ids = read("A Christmas  TREE", padding="max_length").input_ids
    assert len(ids) == 77
    words = [entry for entry in read.convert_ids_to_tokens(ids) if not re.match(r"<\|", entry)]
    assert words == ["a</w>", "christmas</w>", "tree</w>"]
    assert max(ids) == read.eos_token_id == ids[4] == len(entries) - 1


def test_tokenizer_files_agree(emoji, tmp_path):
    vocabulary.write_tokenizer(vocabulary.train_tokenizer(emoji), tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    assert whole["vocab"] == json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    merges = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert [tuple(pair) for pair in whole["merges"]] == [tuple(line.split(" ")) for line in merges]
