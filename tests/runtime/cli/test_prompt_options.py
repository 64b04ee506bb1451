"""Prompts, seeds and how they are read on the command line: the images of the library, and what a PNG keeps."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import read_settings

QUICK = ("--steps", "2")


@pytest.fixture(scope="module")
def pipe(emoji_bundle):
    return load(emoji_bundle)


@pytest.fixture
def generate(emoji_bundle, tmp_path):
    def run(name, *options):
        words = [str(emoji_bundle), "-o", str(tmp_path / name), *QUICK, *map(str, options)]
        result = CliRunner().invoke(command, words)
        if isinstance(result.exception, InputError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return sorted(tmp_path.glob(f"{name.removesuffix('.png')}*.png"))

    return run


def same(path, image):
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(image))


def test_several_prompts_with_a_seed_for_each_image(generate, pipe):
    paths = generate("x.png", "a red apple", "a fox", "--seed", 1, "--seed", 2)
    assert [path.name for path in paths] == ["x-0.png", "x-1.png"]
    for path, prompt, seed in zip(paths, ("a red apple", "a fox"), (1, 2), strict=True):
        together = pipe(["a red apple", "a fox"], seed=[1, 2], num_inference_steps=2).images[seed - 1]
        same(path, together)
        alone = pipe(prompt, seed=seed, num_inference_steps=2).images[0]
        assert np.abs(np.asarray(Image.open(path)).astype(int) - np.asarray(alone).astype(int)).max() <= 1
    again = generate("again.png", "--like", paths[1])
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
    assert read_settings(paths[1])["prompt"] == ["a red apple", "a fox"]
    assert read_settings(paths[1])["seed"] == [1, 2]


def test_several_prompts_with_one_seed_and_several_images(generate, pipe):
    paths = generate("y.png", "a red apple", "a fox", "--seed", 1, "--num-images", 2)
    expected = pipe(["a red apple", "a fox"], seed=1, num_images_per_prompt=2, num_inference_steps=2).images
    for path, image in zip(paths, expected, strict=True):
        same(path, image)


def test_prompts_of_a_file(generate, tmp_path, pipe):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red apple\n\n  a fox  \n", encoding="utf-8-sig")
    paths = generate("z.png", "--prompts", prompts, "--seed", 3)
    for path, image in zip(paths, pipe(["a red apple", "a fox"], seed=3, num_inference_steps=2).images, strict=True):
        same(path, image)


def test_an_empty_prompt_is_a_prompt(generate, pipe):
    (path,) = generate("empty.png", "", "--seed", 3)
    same(path, pipe("", seed=3, num_inference_steps=2).images[0])
    (again,) = generate("again.png", "--like", path)
    assert again.read_bytes() == path.read_bytes()


def test_how_they_are_read_is_kept(generate, pipe):
    options = ("--prompt-weighting", "--long-prompts", "--clip-skip", 1, "--denoising-end", 0.6)
    (path,) = generate("w.png", "(red:1.6) apple, " * 20, *options, "--seed", 0)
    settings = {"prompt_weighting": True, "long_prompts": True, "clip_skip": 1, "denoising_end": 0.6}
    assert read_settings(path).items() >= settings.items()
    same(path, pipe("(red:1.6) apple, " * 20, seed=0, num_inference_steps=2, **settings).images[0])
    (again,) = generate("again.png", "--like", path)
    assert again.read_bytes() == path.read_bytes()
    (plain,) = generate("plain.png", "--like", path, "--no-prompt-weighting", "--no-long-prompts")
    assert plain.read_bytes() != path.read_bytes()


def test_denoising_start(generate, pipe):
    (first,) = generate("first.png", "a fox", "--seed", 0)
    (path,) = generate("second.png", "a fox", "--seed", 0, "--image", first, "--denoising-start", 0.4)
    image = Image.open(first).convert("RGB")
    same(path, pipe("a fox", seed=0, num_inference_steps=2, image=image, denoising_start=0.4).images[0])


def test_what_is_refused(generate, tmp_path):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("\n \n")
    binary.write_bytes(b"\xff\xfe\x00")
    for options, message in (
        (("x", "--seed", 1, "--seed", 2), "--seed: got 2 seeds, expected one or 1"),
        (("x", "--prompts", empty), "--prompts .*empty.txt: got prompts after DIR as well, expected one of the two"),
        (("--prompts", empty), "--prompts .*empty.txt: got no line with a prompt, expected at least one"),
        (("--prompts", binary), "--prompts .*binary.txt: cannot be read .*it is UTF-16.* a text file in UTF-8"),
        (("--prompts", tmp_path / "none.txt"), "--prompts .*none.txt: cannot be read"),
        (("x", "--clip-skip", 9), "--clip-skip: got 9, expected a whole number from 0 to 3"),
    ):
        with pytest.raises(InputError, match=message):
            generate("r.png", *options)
