"""--vae-tiling, --vae-tile-size and --vae-slicing of `generate`: the image of the library, and what a PNG keeps."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import read_settings

SIZE = ("--height", "96", "--width", "72")


@pytest.fixture(scope="module")
def generate(emoji_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")

    def run(name, *options):
        result = CliRunner().invoke(command, [str(emoji_bundle), "-o", str(folder / name), *options])
        assert result.exit_code == 0, result.output
        return folder / name, result.output

    return run


def test_the_image_is_that_of_the_library_and_can_be_generated_again(generate, emoji_bundle):
    asked = ("a dog", "--steps", "2", "--seed", "0", *SIZE)
    plain, told = generate("plain.png", *asked)
    assert "VAE tiling" not in told
    assert not {"vae_tiling", "vae_slicing"} & read_settings(plain).keys()
    tiled, told = generate("tiled.png", *asked, "--vae-tiling", "--vae-slicing")
    assert "VAE tiling: an image larger than a tile differs from the one without tiling" in told
    settings = read_settings(tiled)
    assert settings["vae_tiling"] is True
    assert settings["vae_slicing"] is True
    pipe = load(emoji_bundle)
    pipe.vae.enable_tiling()
    expected = pipe("a dog", seed=0, num_inference_steps=2, height=96, width=72).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(tiled)), np.asarray(expected))
    assert plain.read_bytes() != tiled.read_bytes()
    again, _ = generate("again.png", "--like", str(tiled))
    assert again.read_bytes() == tiled.read_bytes()
    whole, _ = generate("whole.png", "--like", str(tiled), "--no-vae-tiling", "--no-vae-slicing")
    assert whole.read_bytes() == plain.read_bytes()


def test_the_size_of_a_tile_is_kept(generate, emoji_bundle):
    asked = ("a dog", "--steps", "1", "--seed", "0", *SIZE)
    tiled, _ = generate("small.png", *asked, "--vae-tiling", "--vae-tile-size", "32")
    settings = read_settings(tiled)
    assert (settings["vae_tiling"], settings["vae_tile_size"]) == (True, 32)
    pipe = load(emoji_bundle)
    pipe.vae.enable_tiling(tile_sample_min_size=32)
    expected = pipe("a dog", seed=0, num_inference_steps=1, height=96, width=72).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(tiled)), np.asarray(expected))
    again, _ = generate("small-again.png", "--like", str(tiled))
    assert again.read_bytes() == tiled.read_bytes()
    whole, _ = generate("small-whole.png", "--like", str(tiled), "--no-vae-tiling")
    assert not {"vae_tiling", "vae_tile_size"} & read_settings(whole).keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--vae-tile-size", "64"), "--vae-tile-size: got 64 without --vae-tiling, which cuts the tiles; pass both"),
        (("--no-vae-tiling", "--vae-tile-size", "64"), "--vae-tile-size: got 64 without --vae-tiling"),
        (("--vae-tiling", "--vae-tile-size", "0"), "--vae-tile-size: got 0, expected a multiple of 32 of at most"),
        (("--vae-tiling", "--tile-sample-min-size", "50"), "--tile-sample-min-size: got 50, expected a multiple of 32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_as_typed(emoji_bundle, options, message):
    result = CliRunner().invoke(command, [str(emoji_bundle), "a dog", *options])
    assert isinstance(result.exception, InputError)
    assert str(result.exception).startswith(message)
