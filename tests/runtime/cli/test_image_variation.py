"""`generate` with a bundle that generates variations: an image in the place of a prompt."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.images.save import read_settings


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "in.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)).save(path)
    return path


def test_a_image_and_no_prompt(wide_bundle, image, tmp_path):
    bundle, out = wide_bundle("variation"), tmp_path / "out.png"
    options = ["--image", str(image), "--steps", "2", "--seed", "1", "-o", str(out)]
    result = CliRunner().invoke(command, [str(bundle), *options])
    assert result.exit_code == 0, result.output
    expected = load(bundle)(image=Image.open(image), num_inference_steps=2, seed=1).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(expected))
    assert read_settings(out)["image"] == "in.png"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "image: got none, expected an image"),
        (["a cat", "--image", "{image}"], "PROMPT: got 'a cat', expected none: this checkpoint generates variations"),
        (["--image", "{image}", "--strength", "0.5"], "strength: no such argument"),
    ],
)
def test_wrong_usage(wide_bundle, image, tmp_path, words, message):
    words = [word.format(image=image) for word in words]
    result = CliRunner().invoke(command, [str(wide_bundle("variation")), *words, "-o", str(tmp_path / "out.png")])
    assert result.exit_code
    assert message in f"{result.exception}{result.output}"
