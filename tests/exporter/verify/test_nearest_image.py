"""Labels of images by the nearest known one, and images that must not get a label."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffoundry.exporter.verify.checks.nearest_image import Gallery, gallery_of_prompts, open_gallery, shrink
from diffoundry.exporter.verify.prompts import PROMPTS
from diffoundry.exporter.verify.reference.pipeline_trace import Trace
from diffoundry.runtime.errors import CheckpointError

_EMOJI = Path(__file__).parents[3] / "models/emoji"


@pytest.fixture(scope="module")
def emoji():
    return open_gallery(_EMOJI)


def _enlarged(thumbnail):
    return np.repeat(np.repeat(thumbnail, 4, 0), 4, 1)


def test_the_embedded_model_brings_all_its_images(emoji):
    assert emoji.labels == tuple(entry["label"] for entry in json.loads((_EMOJI / "captions.json").read_text()))
    assert emoji.thumbnails.shape == (263, 16, 16, 3)
    assert emoji.source == "263 labelled images of the checkpoint"
    assert set(PROMPTS) <= set(emoji.labels), "the built-in prompts can all be named"


def test_every_image_of_the_gallery_is_named_by_its_own_label_even_with_noise(emoji):
    rng = np.random.default_rng(0)
    for label, thumbnail in zip(emoji.labels, emoji.thumbnails, strict=True):
        image = _enlarged(thumbnail)
        assert emoji.name(image) == label
        noisy = np.clip(image + rng.normal(0, 0.05, image.shape), 0, 1).astype(np.float32)
        assert emoji.name(noisy) == label, "26 dB of noise"


def test_an_empty_image_does_not_get_the_prompts_label(emoji):
    rng = np.random.default_rng(1)
    nothing = [rng.random((64, 64, 3)), *(np.full((64, 64, 3), grey) for grey in (0, 0.25, 0.5, 0.75, 1))]
    for image in nothing:
        assert emoji.name(image.astype(np.float32)) not in PROMPTS
    broken = np.full((64, 64, 3), np.nan, np.float32)
    broken[1:] = 0.5
    assert emoji.name(broken) is None


def test_swapped_colours_show_something_else(emoji):
    apple = _enlarged(emoji.thumbnails[emoji.labels.index("red apple")])
    assert emoji.name(np.ascontiguousarray(apple[..., ::-1])) != "red apple"


def test_shrinking_averages():
    image = np.random.default_rng(2).random((48, 32, 3)).astype(np.float32)
    expected = image.reshape(16, 3, 16, 2, 3).mean((1, 3))
    np.testing.assert_allclose(shrink(image), expected, atol=1e-6)


def _trace(prompt, image):
    return Trace(prompt=prompt, seed=0, timesteps=(), latents=(), result=image)


def test_without_a_gallery_the_prompts_own_images_are_one():
    rng = np.random.default_rng(3)
    images = rng.random((3, 16, 16, 3)).astype(np.float32)
    traces = [_trace(prompt, image) for prompt, image in zip(("a", "b", "a"), images, strict=True)]
    gallery = gallery_of_prompts(traces)
    assert gallery.source == "diffusers' images of 2 prompts"
    assert [gallery.name(image) for image in images] == ["a", "b", "a"]


def test_one_prompt_or_images_that_look_alike_are_no_gallery():
    image = np.random.default_rng(4).random((16, 16, 3)).astype(np.float32)
    assert gallery_of_prompts([_trace("a", image), _trace("a", 1 - image)]) is None
    assert gallery_of_prompts([_trace("a", image), _trace("b", image * np.float32(0.99))]) is None


def test_a_checkpoint_without_thumbnails_has_no_gallery(tmp_path):
    (tmp_path / "captions.json").write_text('[{"label": "sun"}]')
    assert open_gallery(tmp_path) is None


@pytest.mark.parametrize(
    ("captions", "sheet", "message"),
    [
        ('[{"label": "sun"}, {"label": "moon"}]', (16, 16), "got 2 labels in captions.json and 1 thumbnails"),
        ("[]", (16, 16), "got 0 labels"),
        ('[{"name": "sun"}]', (16, 16), "cannot be read"),
        ("{", (16, 16), "cannot be read"),
        ('[{"label": "sun"}]', None, "cannot be read"),
    ],
)
def test_two_files_that_do_not_fit_together_are_refused(tmp_path, captions, sheet, message):
    (tmp_path / "captions.json").write_text(captions)
    if sheet:
        Image.new("RGB", sheet).save(tmp_path / "thumbnails.png")
    else:
        (tmp_path / "thumbnails.png").write_bytes(b"no image")
    with pytest.raises(CheckpointError, match=rf"{message}.*remove thumbnails\.png"):
        open_gallery(tmp_path)


def test_thumbnails_of_a_rare_format_are_refused(tmp_path):
    """Pillow would open it whatever its name, and start another program for some formats."""
    (tmp_path / "captions.json").write_text('[{"label": "sun"}]')
    Image.new("RGB", (16, 16)).save(tmp_path / "thumbnails.png", format="ICO")
    with pytest.raises(CheckpointError, match=r"expected a file in PNG, JPEG, WebP, GIF, BMP or TIFF"):
        open_gallery(tmp_path)


def test_a_gallery_keeps_the_order_of_its_labels():
    white, black = np.ones((16, 16, 3), np.float32), np.zeros((16, 16, 3), np.float32)
    gallery = Gallery.of_images("test", ["white", "black"], [white, black])
    assert gallery.name(np.full((20, 20, 3), 0.6, np.float32)) == "white"
    assert gallery.name(np.full((20, 20, 3), 0.4, np.float32)) == "black"
