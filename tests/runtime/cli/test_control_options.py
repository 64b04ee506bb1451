"""--control-image and its kin of `generate`: the image of the library, what a PNG keeps, and what is refused."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffoundry.runtime import load
from diffoundry.runtime.cli.control_options import read_controls
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


def test_an_inpainting_controlnet_is_fed(generate, images, bundle, tmp_path):
    """The array of `make_inpaint_condition`, on the model page of control_v11p_sd15_inpaint, by mask or as a file."""
    mask = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8))
    mask.convert("RGBA").save(tmp_path / "mask.png")
    expected = np.array(Image.open(images / "edges.png").convert("RGB")).astype(np.float32) / 255.0
    expected[np.array(mask.convert("L")).astype(np.float32) / 255.0 > 0.5] = -1.0
    made = read_controls([images / "edges.png"], tmp_path / "mask.png")["control_image"]
    np.testing.assert_array_equal(made, expected)
    np.save(tmp_path / "edges.npy", expected)
    shown = ("--control-image", tmp_path / "edges.npy", "--control-image", tmp_path / "edges.npy")
    generated = generate("x.png", *ASKED, *shown)
    library = load(bundle)("a dog", control_image=[expected, expected], num_inference_steps=2, seed=0).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(generated)), np.asarray(library))
    assert read_settings(generated)["control_image"] == ["edges.npy", "edges.npy"]
    for paths, words in (
        (["edges.png", "depth.png"], "--control-mask: got 2 images for ControlNets, expected one --control-image"),
        (["wide.png"], "got 64 x 64 pixels, expected those of --control-image, 72 x 64"),
    ):
        with pytest.raises(InputError, match=words):
            read_controls([images / path for path in paths], tmp_path / "mask.png")
