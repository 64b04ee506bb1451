"""--control-image and its kin of `generate`: the image of the library, what a PNG keeps, and what is refused."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.cli.inspect import command as inspect
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import read_settings

ASKED = ("a dog", "--steps", "2", "--seed", "0")


@pytest.fixture(scope="module")
def bundle(controlled_bundle):
    return controlled_bundle(nets=("first", "pooled"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    for name, size in (("edges", (64, 64)), ("depth", (64, 64)), ("wide", (72, 64))):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def generate(bundle, tmp_path):
    def run(name, *options, fails=False):
        result = CliRunner().invoke(command, [str(bundle), "-o", str(tmp_path / name), *map(str, options)])
        if fails:
            assert isinstance(result.exception, InputError)
            return str(result.exception)
        assert result.exit_code == 0, result.output
        return tmp_path / name

    return run


def test_the_image_is_that_of_the_library_and_can_be_generated_again(generate, bundle, images):
    shown = ("--control-image", images / "edges.png", "--control-image", images / "depth.png")
    more = ("--control-scale", "0.8", "--control-scale", "0.4", "--control-end", "0.6", "--guess-mode")
    generated = generate("first.png", *ASKED, *shown, *more)
    expected = load(bundle)(
        "a dog",
        control_image=[Image.open(images / "edges.png"), Image.open(images / "depth.png")],
        controlnet_conditioning_scale=[0.8, 0.4],
        control_guidance_end=0.6,
        guess_mode=True,
        num_inference_steps=2,
        seed=0,
    ).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(generated)), np.asarray(expected))
    settings = read_settings(generated)
    assert settings["control_image"] == ["edges.png", "depth.png"]
    assert settings["controlnet_conditioning_scale"] == [0.8, 0.4]
    assert settings["control_guidance_end"] == 0.6
    assert settings["guess_mode"] is True
    again = generate("again.png", "--like", generated, *shown)
    assert again.read_bytes() == generated.read_bytes()
    message = generate("not.png", "--like", generated, fails=True)
    assert "was generated with --control-image edges.png --control-image depth.png; pass that too" in message
    plain = generate("plain.png", *ASKED)
    assert plain.read_bytes() != generated.read_bytes()
    assert "control_image" not in read_settings(plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--control-image", "edges.png"], "--control-image: got 1, expected a list of 2: one for each ControlNet"),
        (["--control-image", "edges.png", "--control-image", "wide.png"], "got images of 64 x 64, 72 x 64 pixels"),
        (["--control-scale", "0.5"], "--control-scale needs --control-image"),
        (["--control-image", "nothing.png"], "nothing.png: cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused(generate, images, options, message):
    options = [images / word if word.endswith(".png") else word for word in options]
    assert message in generate("x.png", *ASKED, *options, fails=True)


def test_inspect_says_what_was_joined(controlled_bundle, tiny_controlnet):
    told = CliRunner().invoke(inspect, [str(controlled_bundle(nets=("first", "pooled")))]).output
    assert f" + {tiny_controlnet('sd1', 'first')} + {tiny_controlnet('sd1', 'pooled')}" in told.replace("\n", "")
