"""--image, --mask and --control-image read photographs as they are shown, whatever their EXIF orientation."""

import numpy as np
import pytest
from click.testing import CliRunner
from diffusers.utils import load_image
from PIL import Image

from diffoundry.runtime import load
from diffoundry.runtime.cli.control_options import read_controls
from diffoundry.runtime.cli.generate import command


@pytest.fixture
def photo(tmp_path):
    """A photograph of 64 x 64 pixels that a phone held upright took: stored lying, orientation 6."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).resize((64, 64)).save(tmp_path / "photo.jpg", exif=exif)
    return tmp_path / "photo.jpg"


def test_image_mask_and_control_image_are_upright(emoji_bundle, photo, tmp_path):
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 64, 20))
    mask.convert("RGBA").save(tmp_path / "mask.png")  # opaque, as image editors save it
    upright = load_image(str(photo))
    pipe = load(emoji_bundle)
    for words, arguments in (
        (("--image", photo), {"image": upright}),
        (("--image", photo, "--mask", tmp_path / "mask.png"), {"image": upright, "mask_image": mask}),
    ):
        asked = [emoji_bundle, "a cat", *words, "--strength", "0.5", "--steps", "4", "--seed", "0"]
        result = CliRunner().invoke(command, [*map(str, asked), "-o", str(tmp_path / "x.png")])
        assert result.exit_code == 0, result.output
        expected = pipe("a cat", **arguments, strength=0.5, num_inference_steps=4, seed=0).images[0]
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), np.asarray(expected))
    control = read_controls([photo])["control_image"]
    np.testing.assert_array_equal(np.asarray(control), np.asarray(upright))


def test_an_opaque_alpha_channel_is_no_transparency(emoji_bundle):
    """In the library, too: diffusers' pipelines convert images to RGB."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    pipe = load(emoji_bundle)
    arguments = {"strength": 0.5, "num_inference_steps": 4, "seed": 0}
    images = [pipe("a cat", image=image.convert(mode), **arguments).images[0] for mode in ("RGB", "RGBA")]
    assert images[0].tobytes() == images[1].tobytes()
