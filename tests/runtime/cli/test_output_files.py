"""Names of the files that `generate` writes, what it says about each, and the formats."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.cli.output_files import OutputFiles
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import read_settings


@pytest.fixture
def generate(emoji_bundle, tmp_path, monkeypatch):
    """Run in an empty folder with one step; gives the text of both streams."""
    monkeypatch.chdir(tmp_path)

    def run(*options):
        result = CliRunner().invoke(command, [str(emoji_bundle), "--steps", "1", "--seed", "7", *options])
        assert result.exit_code == 0, result.output
        return result

    return run


def test_nothing_is_overwritten_without_a_name(generate, tmp_path):
    (tmp_path / "out-0003.webp").touch()
    (tmp_path / "out-12.png").touch()  # not a name of ours
    assert "out-0004.png (seed 7, " in generate("a fox").output
    output = generate("a fox", "a rocket", "--num-images", "2").output
    for number, prompt in ((5, "a fox"), (6, "a fox"), (7, "a rocket"), (8, "a rocket")):
        assert f"out-000{number}.png: {prompt!r}, seed 7, image {number - 4} of 4\n" in output
    assert "images/out-0001.png (seed 7, " in generate("a fox", "-o", "images/").output
    assert "images/out-0002.png (seed 7, " in generate("a fox", "-o", "images").output
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".png") == [
        *(f"out-000{number}.png" for number in range(4, 9)),
        "out-12.png",
    ]


def test_a_bundle_takes_no_images(emoji_bundle, monkeypatch):
    words = rf"^--output {re.escape(str(emoji_bundle))}: got a bundle, expected another folder; choose one$"
    for typed in (emoji_bundle, emoji_bundle / "x.png"):
        with pytest.raises(InputError, match=words):
            OutputFiles(str(typed))
    monkeypatch.chdir(emoji_bundle)
    with pytest.raises(InputError, match=r"^--output \.: got a bundle"):
        OutputFiles(None)


def test_each_image_says_its_prompt_and_seed(generate):
    options = ("a fox", "a rocket", "--seed", "8", "-o", "x.png")
    output = generate(*options).output
    assert "x-0.png: 'a fox', seed 7\n" in output
    assert "x-1.png: 'a rocket', seed 8\n" in output
    images = json.loads(generate(*options, "--json").stdout)["images"]
    assert images == [
        {"file": "x-0.png", "prompt": "a fox", "seed": 7},
        {"file": "x-1.png", "prompt": "a rocket", "seed": 8},
    ]


def test_formats(generate):
    for name in ("x.png", "x.jpg", "x.webp"):
        generate("a fox", "-o", name)
    png, jpg, webp = (
        np.asarray(Image.open(f"x.{suffix}").convert("RGB")).astype(int) for suffix in ("png", "jpg", "webp")
    )
    np.testing.assert_array_equal(webp, png)
    assert 0 < np.abs(jpg - png).mean() < 3
    assert read_settings("x.jpg") == read_settings("x.webp") == read_settings("x.png")
    generate("--like", "x.jpg", "-o", "again.png")
    assert Image.open("again.png").tobytes() == Image.open("x.png").tobytes()


def test_two_commands_never_take_the_same_number(tmp_path):
    first, second = OutputFiles(f"{tmp_path}/"), OutputFiles(str(tmp_path))
    for files, name in ((first, "out-0001.png"), (second, "out-0002.png"), (first, "out-0003.png")):
        with files.name(0, 1) as path:
            assert path.name == name
    with pytest.raises(KeyboardInterrupt), first.name(0, 1):
        raise KeyboardInterrupt
    assert not (tmp_path / "out-0004.png").exists()
    with pytest.raises(InputError, match=r"--output .*/a/b/: its folder .*/a does not exist; make it, or choose"):
        OutputFiles(f"{tmp_path}/a/b/")
