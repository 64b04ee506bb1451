"""--adapter-image, --image-prompt and their kin of `generate`: the image of the library, what a PNG keeps, refusals."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.cli.inspect import command as inspect
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import read_settings

ASKED = ("a dog", "--steps", "1", "--seed", "0", "--height", "40", "--width", "56")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    for number, name in enumerate(("sketch", "depth", "cat", "dog")):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    Image.fromarray(np.where(np.arange(56) > 20, 255, 0).astype(np.uint8)[None].repeat(40, 0)).save(folder / "mask.png")
    np.save(folder / "depth.npy", np.random.default_rng(1).random((40, 56, 1)).astype(np.float32))
    return folder


@pytest.fixture
def generate(tmp_path):
    def run(bundle, name, *options, fails=False):
        result = CliRunner().invoke(command, [str(bundle), "-o", str(tmp_path / name), *map(str, options)])
        if fails:
            assert isinstance(result.exception, InputError), result.output
            return str(result.exception)
        assert result.exit_code == 0, result.output
        return tmp_path / name

    return run


def library(bundle, **arguments):
    size = {"height": 40, "width": 56, "num_inference_steps": 1, "seed": 0}
    return np.asarray(load(bundle)("a dog", **size, **arguments).images[0])


@pytest.mark.slow
def test_t2i_adapters(generate, adapted_bundle, images):
    bundle = adapted_bundle()
    shown = ("--adapter-image", images / "sketch.png", "--adapter-image", images / "depth.npy")
    more = ("--adapter-scale", "0.8", "--adapter-conditioning-scale", "0.4", "--adapter-end", "0.9")
    generated = generate(bundle, "first.png", *ASKED, *shown, *more)
    expected = library(
        bundle,
        adapter_image=[Image.open(images / "sketch.png"), np.load(images / "depth.npy")],
        adapter_conditioning_scale=[0.8, 0.4],
        adapter_conditioning_factor=0.9,
    )
    np.testing.assert_array_equal(np.asarray(Image.open(generated)), expected)
    settings = read_settings(generated)
    assert settings["adapter_image"] == ["sketch.png", "depth.npy"]
    assert settings["adapter_conditioning_scale"] == [0.8, 0.4]
    again = generate(bundle, "again.png", "--like", generated, *shown)
    assert again.read_bytes() == generated.read_bytes()
    message = generate(bundle, "x.png", "--like", generated, fails=True)
    assert "was generated with --adapter-image sketch.png --adapter-image depth.npy; pass that too" in message
    for options, words in (
        (["--adapter-image", images / "sketch.png"], "--adapter-image: got 1, expected a list of 2: one for each T2I-"),
        (["--adapter-scale", "0.5"], "--adapter-scale needs --adapter-image"),
        (["--adapter-image", images / "nothing.png"], "nothing.png: cannot be read"),
        ([*shown, "--adapter-end", "2"], "--adapter-end: got 2.0, expected a number of at least 0 and at most 1"),
    ):
        assert words in generate(bundle, "x.png", *ASKED, *options, fails=True)


def test_image_prompts(generate, image_prompt_bundle, images):
    bundle = image_prompt_bundle()
    shown = ("--image-prompt", images / "cat.png", "--ip-adapter-image", images / "dog.png")
    masks = ("--image-prompt-mask", images / "mask.png", "--image-prompt-mask", images / "mask.png")
    scales = ("--image-prompt-scale", "0.8", "--image-prompt-scale", "0.4")
    generated = generate(bundle, "first.png", *ASKED, *shown, *masks, *scales)
    cat, dog, mask = (Image.open(images / f"{name}.png") for name in ("cat", "dog", "mask"))
    prompts = {"ip_adapter_image": [cat, dog], "ip_adapter_masks": [mask, mask], "ip_adapter_scale": [0.8, 0.4]}
    np.testing.assert_array_equal(np.asarray(Image.open(generated)), library(bundle, **prompts))
    settings = read_settings(generated)
    assert settings["ip_adapter_image"] == ["cat.png", "dog.png"]
    assert settings["ip_adapter_masks"] == ["mask.png", "mask.png"]
    assert settings["ip_adapter_scale"] == [0.8, 0.4]
    again = generate(bundle, "again.png", "--like", generated, *shown, *masks)
    assert again.read_bytes() == generated.read_bytes()
    for options, words in (
        (
            ["--image-prompt", images / "cat.png"],
            "--image-prompt: got 1 for 2 IP-Adapters of this bundle, expected one",
        ),
        (["--image-prompt-scale", "0.5"], "--image-prompt-scale needs --image-prompt"),
        ([*shown, *masks[:2]], "--image-prompt-mask: got 1 masks for 2 of --image-prompt, expected one for each"),
        (["--image-prompt-mask", images / "mask.png"], "--image-prompt-mask: got 1 masks for 0 of --image-prompt"),
    ):
        assert words in generate(bundle, "x.png", *ASKED, *options, fails=True)


@pytest.mark.slow
def test_inspect_says_what_was_joined(adapted_bundle, image_prompt_bundle, tiny_t2i_adapter, tiny_ip_adapter):
    for bundle, joined in (
        (adapted_bundle(), [tiny_t2i_adapter(kind=kind) for kind in ("full", "grey")]),
        (image_prompt_bundle(), [tiny_ip_adapter(kind=kind) for kind in ("plain", "plus")]),
    ):
        told = CliRunner().invoke(inspect, [str(bundle)]).output.replace("\n", "")
        assert "".join(f" + {path}" for path in joined) in told
