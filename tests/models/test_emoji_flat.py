"""The shipped LoRA for flat images: what is generated moves to the flat images, on every engine that takes LoRAs."""

import importlib.resources
import json

import numpy as np
import pytest
from PIL import Image

from diffoundry.runtime import load
from tests.models.conftest import ENGINES

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

MODELS = importlib.resources.files("diffoundry_models")
FLAT = MODELS / "emoji-flat"
LORA = FLAT / "pytorch_lora_weights.safetensors"
LABELS = ("red apple", "watch", "sailboat", "backpack")
SETTINGS = {"num_inference_steps": 10, "guidance_scale": 4.0, "seed": 0, "output_type": "np"}
_NONE = ("openvino", "int8-weights")  # takes no LoRA
ADAPTABLE = [engine for engine in ENGINES if tuple(getattr(engine, "values", engine)) != _NONE]


def thumbnails(folder):
    """Label to its training image, float (16, 16, 3) in 0..1."""
    labels = [entry["label"] for entry in json.loads((MODELS / "emoji" / "captions.json").read_text(encoding="utf-8"))]
    with Image.open(folder / "thumbnails.png") as image:
        sheet = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
    tiles = sheet.reshape(-1, 16, 16, 16, 3).swapaxes(1, 2).reshape(-1, 16, 16, 3)
    return dict(zip(labels, tiles, strict=False))


def distances(images, folder):
    """Mean squared error of each label's image to its thumbnail in a folder, (N,)."""
    known = thumbnails(folder)
    small = np.stack(images).reshape(-1, 16, 4, 16, 4, 3).mean((2, 4))
    return ((small - np.stack([known[label] for label in LABELS])) ** 2).mean((1, 2, 3))


def generate(pipe):
    return pipe([f"a {label}" for label in LABELS], **SETTINGS).images


@pytest.mark.slow_cases("onnxruntime-*")
@pytest.mark.slow_cases("openvino-*")
@pytest.mark.parametrize(("target", "precision"), ADAPTABLE)
def test_images_move_to_the_flat_ones(guided, target, precision):
    pipe = guided(target, precision)
    before = generate(pipe)
    report = pipe.loras.load(LORA)
    assert report.unused == ()
    whole = generate(pipe)
    pipe.loras.set_scale(0.5)
    half = generate(pipe)
    pipe.loras.unload()
    assert np.array_equal(generate(pipe), before)
    assert (distances(before, MODELS / "emoji") < 0.01).all()
    assert (distances(whole, FLAT) < 0.4 * distances(before, FLAT)).all()
    assert (distances(whole, FLAT) < 0.3 * distances(whole, MODELS / "emoji")).all()
    assert distances(whole, FLAT).mean() < distances(half, FLAT).mean() < distances(before, FLAT).mean()


def test_diffusers_loads_it_and_generates_the_same(emoji_bundle):
    pytest.importorskip("peft")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(MODELS / "emoji", torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    theirs.load_lora_weights(str(FLAT))
    settings = {name: value for name, value in SETTINGS.items() if name != "seed"}
    generator = torch.Generator().manual_seed(SETTINGS["seed"])
    expected = theirs("a watch", generator=generator, **settings).images[0]
    pipe = load(emoji_bundle)
    pipe.loras.load(LORA)
    np.testing.assert_allclose(pipe("a watch", **SETTINGS).images[0], expected, atol=2e-3)


def test_shipped_files():
    assert LORA.stat().st_size < 5e6
    content = LORA.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    assert {entry["dtype"] for entry in entries.values()} == {"F16"}
    assert {name.split(".")[0] for name in entries} == {"unet"}
    card, notice = ((FLAT / name).read_text(encoding="utf-8") for name in ("README.md", "NOTICE"))
    for package in ("emoji-datasource-google 16.0.0", "emojibase-data 17.0.0"):
        assert package in notice
        assert package.split()[0] in card
    assert "Apache License" in notice
    assert len(thumbnails(FLAT)) == 263
