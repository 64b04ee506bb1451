"""Reading the settings of PNG files of strangers: what is accepted, and every refusal."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.png import read_settings, save_png

SETTINGS = {"prompt": "a red apple, 猫 😀", "num_inference_steps": 20, "guidance_scale": 7.5}


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def make_png(path, *texts):
    """A PNG of one pixel with text chunks as given, valid or not."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    pixel = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0\0"))]
    body = b"".join(chunk(kind, data) for kind, data in [*pixel, *((b"tEXt", text) for text in texts), (b"IEND", b"")])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_golden_sample_of_format_1(tmp_path):
    golden = b'diffoundry\0{"format_version": 1, "settings": {"prompt": "red \\ud83d\\ude00", "seed": 7}}'

    assert read_settings(make_png(tmp_path / "old.png", golden)) == {"prompt": "red 😀", "seed": 7}


def test_other_text_chunks_do_not_disturb(tmp_path):
    texts = (
        b"parameters\0x",
        b'diffoundry2\0{"a": 1}',
        b"diffoundry",
        b'diffoundry\0{"format_version":1,"settings":{}}',
    )

    assert read_settings(make_png(tmp_path / "many.png", *texts)) == {}


def refused_to_read(path, message):
    with pytest.raises(InputError, match=message):
        read_settings(path)


def test_read_missing_file(tmp_path):
    refused_to_read(tmp_path / "none.png", r"none\.png: cannot be read \(No such file or directory\); give the path of")


def test_read_folder(tmp_path):
    refused_to_read(tmp_path, r"cannot be read \(Is a directory\); give the path of a PNG file")


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"\xff\xd8\xff\xe0 a JPEG", b"GIF89a" * 10])
def test_read_what_is_no_png(tmp_path, data):
    (tmp_path / "out.png").write_bytes(data)

    refused_to_read(tmp_path / "out.png", r"out\.png: not a PNG file, expected one painted by diffoundry")


def test_read_png_without_settings(image, tmp_path):
    image.save(tmp_path / "out.png")

    refused_to_read(
        tmp_path / "out.png", r"got a PNG without settings, expected one painted by diffoundry; programs that"
    )


@pytest.mark.parametrize("size", [8, 20, 60, 200, -13, -4])
def test_read_truncated_file(image, tmp_path, size):
    save_png(image, tmp_path / "out.png", SETTINGS)
    data = (tmp_path / "out.png").read_bytes()
    (tmp_path / "out.png").write_bytes(data[:size] if size != -4 else data[:-12])

    refused_to_read(tmp_path / "out.png", r"the PNG file ends too early|a text chunk is damaged")


def test_read_damaged_settings(image, tmp_path):
    save_png(image, tmp_path / "out.png", SETTINGS)
    data = (tmp_path / "out.png").read_bytes()
    (tmp_path / "out.png").write_bytes(data.replace(b'"num_inference_steps": 20', b'"num_inference_steps": 21', 1))

    refused_to_read(tmp_path / "out.png", r"out\.png: a text chunk is damaged; copy the file again")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"its settings are not JSON \(Expecting value"),
        (b"{", "its settings are not JSON"),
        (b"\xff", "its settings are not JSON"),
        (b"[" * 100_000, "its settings are not JSON"),
        (b"9" * 5000, "its settings are not JSON"),
        (b"7", "its settings have another form than diffoundry writes; paint it again"),
        (b"{}", "its settings have another form"),
        (b'{"format_version": 1}', "its settings have another form"),
        (b'{"format_version": 1, "settings": []}', "its settings have another form"),
        (b'{"format_version": true, "settings": {}}', "its settings have another form"),
        (b'{"format_version": "1", "settings": {}}', "its settings have another form"),
        (b'{"format_version": 0, "settings": {}}', "its settings have another form"),
        (b'{"format_version": 2, "other": 1}', "its settings have format version 2, expected at most 1; upgrade"),
    ],
)
def test_read_malformed_settings(tmp_path, text, message):
    refused_to_read(make_png(tmp_path / "out.png", b"diffoundry\0" + text), rf"out\.png: {message}")


def test_read_settings_that_are_there_twice(tmp_path):
    text = b'diffoundry\0{"format_version": 1, "settings": {}}'

    refused_to_read(make_png(tmp_path / "out.png", text, text), "got settings 2 times, expected once; do not trust it")


def test_read_text_chunk_that_is_too_large(tmp_path):
    path = make_png(tmp_path / "out.png", b"diffoundry\0" + b" " * 2**20)

    refused_to_read(path, "got a text chunk of 1048587 bytes, expected at most 1048576; do not trust it")


def test_read_text_chunk_that_says_it_is_large_takes_no_memory(tmp_path):
    path = make_png(tmp_path / "out.png", b"diffoundry\0{}")
    data = path.read_bytes()
    at = data.index(b"tEXt") - 4
    path.write_bytes(data[:at] + struct.pack(">I", 2**32 - 1) + data[at + 4 :])

    refused_to_read(path, "got a text chunk of 4294967295 bytes, expected at most 1048576")


def test_read_endless_chunks(tmp_path):
    empty = struct.pack(">I", 0) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    (tmp_path / "out.png").write_bytes(b"\x89PNG\r\n\x1a\n" + empty * 100_001)

    refused_to_read(tmp_path / "out.png", "got more than 100000 chunks, expected a picture; do not trust it")
