"""PNG files with their settings inside: what is written, what is read back, and every refusal."""

import os
import stat
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import check_settings, read_settings, save_image
from diffoundry.runtime.images.settings import FORMAT_VERSION

SETTINGS = {
    "prompt": "a red apple, 猫 😀 <|endoftext|>\nsecond line",
    "negative_prompt": "blurry",
    "num_inference_steps": 20,
    "guidance_scale": 7.5,
    "scheduler": "EulerDiscrete",
    "seed": 2**63,
    "height": 24,
    "width": 16,
    "nested": {"b": [1, None, True, 0.1], "a": {}},
    "bundle": 'emoji, "small"',
}


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def chunks(path):
    """(kind, data) of each chunk, its CRC checked."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, found = 8, []
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        found.append((kind, body))
        at += 12 + length
    return found


def test_settings_and_pixels_come_back(image, tmp_path):
    save_image(image, tmp_path / "out.png", SETTINGS)

    assert read_settings(tmp_path / "out.png") == SETTINGS
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(image))


SWEEP = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.dictionaries(st.text() | st.sampled_from(sorted(SETTINGS)), VALUES, max_size=5))
def test_any_settings_come_back(image, tmp_path, values):
    save_image(image, tmp_path / "out.png", values)

    assert read_settings(tmp_path / "out.png") == values
    Image.open(tmp_path / "out.png").load()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_same_image_and_settings_give_the_same_file(image, tmp_path, mode):
    first, second = image.convert(mode), Image.frombytes(mode, image.size, image.convert(mode).tobytes())
    second.info |= {"dpi": (300, 300), "icc_profile": b"profile", "Software": "other", "transparency": 0, "gamma": 0.4}
    shuffled = dict(reversed(SETTINGS.items()))

    save_image(first, tmp_path / "first.png", SETTINGS)
    save_image(second, tmp_path / "second.PNG", shuffled)

    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.PNG").read_bytes()
    assert second.info["dpi"] == (300, 300)
    assert [kind for kind, _ in chunks(tmp_path / "first.png")] == [b"IHDR", b"tEXt", b"iTXt", b"IDAT", b"IEND"]


def test_chunk_is_sorted_json_with_a_version(image, tmp_path):
    save_image(image, tmp_path / "out.png", {"seed": 1, "prompt": "é"})

    (text,) = (body for kind, body in chunks(tmp_path / "out.png") if body.startswith(b"diffoundry\0"))
    assert text == b'diffoundry\0{"format_version": 1, "settings": {"prompt": "\\u00e9", "seed": 1}}'
    assert FORMAT_VERSION == 1


def test_other_programs_see_the_parameters(image, tmp_path):
    save_image(image, tmp_path / "out.png", SETTINGS)

    assert Image.open(tmp_path / "out.png").text["parameters"] == (
        "a red apple, 猫 😀 <|endoftext|>\nsecond line\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: EulerDiscrete, CFG scale: 7.5, Seed: 9223372036854775808, Size: 16x24, "
        'Model: "emoji, \\"small\\""'
    )


def test_parameters_without_settings(image, tmp_path):
    save_image(image, tmp_path / "out.png", {"prompt": "a\0b\U0001f34e", "seed": None})

    assert Image.open(tmp_path / "out.png").text["parameters"] == "ab\U0001f34e\nSize: 16x24"
    assert read_settings(tmp_path / "out.png") == {"prompt": "a\0b\U0001f34e", "seed": None}


def test_existing_file_is_replaced_and_keeps_no_draft(image, tmp_path):
    (tmp_path / "out.png").write_text("old")

    save_image(image, tmp_path / "out.png", SETTINGS)

    assert read_settings(tmp_path / "out.png") == SETTINGS
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_file_has_the_mode_of_any_new_file(image, tmp_path):
    (tmp_path / "plain").touch()

    save_image(image, tmp_path / "out.png", SETTINGS)

    assert stat.S_IMODE((tmp_path / "out.png").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def refused_to_save(image, path, message, values=SETTINGS):
    before = sorted(path.parent.iterdir()) if path.parent.is_dir() else None
    with pytest.raises(InputError, match=message):
        save_image(image, path, values)
    assert (sorted(path.parent.iterdir()) if path.parent.is_dir() else None) == before


@pytest.mark.parametrize("name", ["out", "out.gif", "out.png.bmp", ".png"])
def test_unknown_suffix(image, tmp_path, name):
    message = r"image .*: got the suffix '.*', expected one of \.png, \.jpg, \.jpeg, \.webp; name it .*\.png"
    refused_to_save(image, tmp_path / name, message)


def test_name_that_is_too_long(image, tmp_path):
    message = r"cannot be written \(File name too long\); choose another name"
    refused_to_save(image, tmp_path / f"{'a' * 300}.png", message)


def test_folder_instead_of_a_file(image, tmp_path):
    (tmp_path / "dir.png").mkdir()

    refused_to_save(
        image, tmp_path / "dir.png", r"dir\.png: got a folder, expected the path of a file; add a name to it"
    )


def test_missing_folder(image, tmp_path):
    refused_to_save(
        image,
        tmp_path / "none" / "out.png",
        "does not exist; make it, or choose another",
    )


def test_file_instead_of_the_folder(image, tmp_path):
    (tmp_path / "file").touch()

    refused_to_save(image, tmp_path / "file" / "out.png", "does not exist; make it, or choose another")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(image, tmp_path):
    tmp_path.chmod(0o500)

    refused_to_save(image, tmp_path / "out.png", r"cannot be written \(Permission denied\); choose another folder")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no files, not even from root")
def test_folder_that_takes_no_files(image):
    with pytest.raises(InputError, match=r"image /proc/out\.png: (cannot be written \(.+\)|its folder /proc takes)"):
        save_image(image, "/proc/out.png", SETTINGS)


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX")
@pytest.mark.parametrize("there", [False, True])
def test_full_disk_leaves_the_old_file_or_none(tmp_path, there):
    """A quota of 1000 bytes a file stops the write in its middle."""
    if there:
        (tmp_path / "out.png").write_text("old")
    program = (
        "import resource, numpy as np\n"
        "from PIL import Image\n"
        "from diffoundry.runtime.errors import InputError\n"
        "from diffoundry.runtime.images.save import save_image\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))\n"
        "try:\n"
        "    save_image(image, 'out.png', {})\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )

    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert result.stdout == "image out.png: cannot be written (File too large); choose another folder\n"
    assert [path.name for path in tmp_path.iterdir()] == (["out.png"] if there else [])
    assert not there or (tmp_path / "out.png").read_text() == "old"


def test_mode_that_png_readers_do_not_expect(tmp_path):
    refused_to_save(
        Image.new("CMYK", (8, 8)), tmp_path / "out.png", "got the mode 'CMYK', expected one of L, RGB, RGBA; convert it"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eta": float("nan")}, "got settings that JSON cannot hold"),
        ({"eta": float("inf")}, "got settings that JSON cannot hold"),
        ({"seed": np.int64(1)}, r"got settings that JSON cannot hold \(.*int64.*\); convert them"),
        ({"latents": np.zeros(2)}, "got settings that JSON cannot hold"),
        ({"prompt": b"red"}, "got settings that JSON cannot hold"),
        ({1: "one"}, "got settings that JSON would change, expected only JSON's own types"),
        ({"size": (1, 2)}, "got settings that JSON would change"),
        ({"prompt": "a" * 600_000}, "got 600049 bytes of settings, expected at most 524288; shorten the prompts, or"),
    ],
)
def test_settings_that_cannot_be_kept(image, tmp_path, values, message):
    refused_to_save(image, tmp_path / "out.png", rf"out\.png: {message}", values)


def test_settings_are_checked_before_generating(tmp_path):
    """A JPEG file has room for less than others, and a WebP file for fewer pixels."""
    for name, size, length, message in (
        ("out.png", (8, 8), 600_000, "got 600049 bytes of settings, expected at most 524288"),
        ("out.jpg", (8, 8), 30_000, "bytes of settings, expected at most 65533 in a JPEG file; name it out.png"),
        ("out.webp", (20_000, 8), 1, "got 20000 x 8 pixels, expected at most 16383 to a side in a WebP file; name it"),
    ):
        with pytest.raises(InputError, match=message):
            check_settings({"prompt": "a" * length}, tmp_path / name, size)
        check_settings({"prompt": "a" * 9000}, tmp_path / name, (8, 8))


def test_endless_settings(image, tmp_path):
    values = {}
    values["self"] = values

    refused_to_save(image, tmp_path / "out.png", r"got settings that JSON cannot hold \(Circular", values)


def test_settings_survive_a_text_limit_of_pillow(image, tmp_path):
    """The longest settings we write must still open in Pillow, which refuses longer text chunks."""
    save_image(image, tmp_path / "out.png", {"prompt": "a" * 520_000, "negative_prompt": ""})

    Image.open(tmp_path / "out.png").load()
    assert len(read_settings(tmp_path / "out.png")["prompt"]) == 520_000


@pytest.mark.parametrize(("suffix", "difference"), [("jpg", 40), ("JPEG", 40), ("webp", 0)])
def test_other_formats_keep_the_settings(image, tmp_path, suffix, difference):
    """Pillow reads the same image, and `read_settings` the same settings; the same input gives the same bytes."""
    for name in ("one", "two"):
        save_image(image, tmp_path / f"{name}.{suffix}", SETTINGS)
    path = tmp_path / f"one.{suffix}"
    assert path.read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    assert read_settings(path) == SETTINGS
    pixels, kept = np.asarray(image).astype(int), np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(kept - pixels).max() <= difference
    with pytest.raises(InputError, match="got the mode 'CMYK', expected one of L, RGB"):
        save_image(image.convert("CMYK"), path, SETTINGS)


def test_sd_parsers_reads_the_parameters(image, tmp_path):
    """The package that galleries use, on every format; with options and for the third of four images."""
    from sd_parsers import ParserManager

    settings = {
        **SETTINGS,
        "prompt": ["a red apple", "a (green:1.2) apple, on a table"],
        "negative_prompt": ["", "blurry, grey"],
        "seed": [1, 2, 3, 4],
        "num_images_per_prompt": 2,
        "image_index": 2,
        "scheduler": "DPMSolverMultistep",
        "sampler": "DPM++ 2M SDE",
        "schedule_type": "Karras",
        "bundle": "emoji.bundle",
        "model_hash": "0123456789",
        "diffoundry": "0.1.0",
        "clip_skip": 1,
    }
    for suffix in ("png", "jpg", "webp"):
        save_image(image, tmp_path / f"out.{suffix}", settings)
        (sampler,) = (found := ParserManager().parse(tmp_path / f"out.{suffix}")).samplers
        assert sampler.name == "DPM++ 2M SDE"
        assert sampler.parameters == {"cfg_scale": "7.5", "seed": "3", "steps": "20", "scheduler": "Karras"}
        assert [prompt.value for prompt in sampler.prompts] == ["a (green:1.2) apple, on a table"]
        assert [prompt.value for prompt in sampler.negative_prompts] == ["blurry, grey"]
        assert (sampler.model.name, sampler.model.hash) == ("emoji", "0123456789")
        assert found.metadata == {"Size": "16x24", "Clip skip": "2", "Version": "diffoundry 0.1.0"}
