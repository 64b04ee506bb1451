"""Qwen-Image-Layered against diffusers' own pipeline on a tiny random checkpoint, after every step."""

import inspect
import json

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers.pipelines.qwenimage import pipeline_qwenimage_layered as qwen_layered
from PIL import Image
from system_pair import compare_system
from tiny_qwen_image import make_qwen_image_layered

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.models.qwen_image_transformer_2d import read_layout
from diffoundry.runtime.pipelines.tasks import layer_decomposition
from diffoundry.runtime.pipelines.tasks.prompt_editing import area_size
from diffoundry.serving.deploy.triton import write_repository

pytestmark = pytest.mark.slow

CLASS = "QwenImageLayeredPipeline"
WIDE = Image.effect_noise((300, 200), 90).convert("RGBA")
WIDE.putalpha(Image.radial_gradient("L").resize((300, 200)))
TALL = Image.effect_noise((90, 120), 60).convert("RGBA")
FEW = {"num_inference_steps": 2, "watch": False, "prompt": "a cat"}


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint(f"class-{CLASS}", make_qwen_image_layered)


@pytest.fixture(scope="module")
def ours(exported, folder):
    return load(exported(folder), target="onnxruntime")


@pytest.fixture(scope="module")
def theirs(folder):
    return reference_pipeline(open_checkpoint(str(folder)))


@pytest.fixture
def _small(monkeypatch):
    """Layers with a fortieth of the pixels, and a smaller image, as both compute sizes."""
    measure = qwen_layered.calculate_dimensions
    monkeypatch.setattr(qwen_layered, "calculate_dimensions", lambda area, ratio: measure(area / 40, ratio))
    monkeypatch.setattr(layer_decomposition, "area_size", lambda area, image: area_size(area / 40, image))


CASES = {
    "one": {"image": WIDE, "negative_prompt": "blue", "layers": 2},
    "normalized": {"image": TALL, "negative_prompt": "", "layers": 1, "cfg_normalize": True, "true_cfg_scale": 2.5},
    "two": {"image": TALL, "prompt": ["a cat", "a red apple"], "layers": 3, "resolution": 1024},
    "several results": {"image": WIDE, "num_images_per_prompt": 2, "layers": 2, "negative_prompt": "blue"},
}


@pytest.mark.usefixtures("_small")
def test_every_step_is_diffusers(ours, theirs):
    """Layers of two sizes, and of several results; `layers` is their number in each."""
    for name, shape in {"one": (2, 96, 128, 4), "two": (6, 192, 128, 4)}.items():
        assert compare_system(ours, theirs, **{**FEW, **CASES[name]}).shape == shape


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_of_more_is_diffusers(exported, folder, theirs, target):
    pipe = load(exported(folder, target="onnxruntime,openvino"), target=target)
    for case in CASES.values():
        compare_system(pipe, theirs, **{**FEW, **case})


def test_every_step_in_full_size_is_diffusers(ours, theirs):
    assert compare_system(ours, theirs, **{**FEW, **CASES["one"]}).shape == (2, 512, 768, 4)


@pytest.mark.usefixtures("_small")
def test_layers_are_images_with_transparency(ours, theirs):
    """The same pixels as diffusers' to one level, in one list; an opaque image is one without transparency."""
    arguments = {"image": TALL.convert("RGB"), "layers": 2, "num_inference_steps": 2}
    layers = ours("a cat", seed=0, **arguments).images
    opaque = {**arguments, "image": TALL}
    with torch.no_grad():
        (expected,) = theirs(prompt="a cat", generator=torch.Generator().manual_seed(0), **opaque).images
    assert [layer.mode for layer in layers] == ["RGBA", "RGBA"]
    for layer, other in zip(layers, expected, strict=True):
        assert np.abs(np.asarray(layer, np.int16) - np.asarray(other, np.int16)).max() <= 1
    run = ours.start("a cat", seed=0, **arguments)
    next(iter(run))
    assert [image.size for image in run.preview()] == [layer.size for layer in layers]
    assert run.count == 2


def test_defaults_are_diffusers(ours):
    parameters = inspect.signature(getattr(diffusers, CLASS).__call__).parameters
    given = ours.start("a cat", image=TALL, seed=0).arguments
    for name in (
        "num_inference_steps",
        "true_cfg_scale",
        "layers",
        "resolution",
        "cfg_normalize",
        "max_sequence_length",
    ):
        assert given[name] == parameters[name].default, name


ERRORS = {
    "no prompt": ({"prompt": None}, "prompt: got none, expected a description of the image; diffusers has the lang"),
    "an empty prompt": ({"prompt": " "}, "prompt: got ' ', expected a description of the image"),
    "no image": ({"image": None}, "image: got none, expected image: splitting an image into layers is what this"),
    "a list": ({"image": [TALL]}, "image: got list, expected PIL images"),
    "no layers": ({"layers": 0}, "layers: got 0, expected a whole number of at least 1 and at most 64"),
    "half a layer": ({"layers": 1.5}, "layers: got 1.5, expected a whole number"),
    "another resolution": ({"resolution": 512}, "resolution: got 512, expected 640 or 1024"),
    "another size": ({"height": 64}, "height: got 64, expected 736, which follows from resolution=640 and the ratio"),
    "no switch": ({"cfg_normalize": 1}, "cfg_normalize: got 1, expected True or False"),
}


def test_wrong_arguments_are_refused(ours):
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours.start(**{"prompt": "a cat", "image": TALL, **arguments})


@pytest.mark.usefixtures("_small")
def test_generate_writes_each_layer(exported, folder, ours, tmp_path):
    TALL.save(tmp_path / "in.png")
    own = ("--layers", "2", "--resolution", "640", "--cfg-normalize", "--negative-prompt", "blue")
    words = [str(exported(folder)), "a cat", "--image", str(tmp_path / "in.png"), "--steps", "2", "--seed", "5", *own]
    result = CliRunner().invoke(generate, [*words, "-o", str(tmp_path / "out.png")])
    assert result.exit_code == 0, result.output
    arguments = {"layers": 2, "cfg_normalize": True, "negative_prompt": "blue", "num_inference_steps": 2}
    expected = ours("a cat", image=TALL, seed=5, **arguments).images
    for index, layer in enumerate(expected):
        with Image.open(tmp_path / f"out-{index}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(layer))
    again = ["--like", str(tmp_path / "out-0.png"), "--image", str(tmp_path / "in.png")]
    assert CliRunner().invoke(generate, [words[0], *again, "-o", str(tmp_path / "again.png")]).exit_code == 0
    assert (tmp_path / "again-1.png").read_bytes() == (tmp_path / "out-1.png").read_bytes()
    prompts = ("a cat", "a dog", "--seed", "5", "--seed", "6")
    more = [
        "--image",
        str(tmp_path / "in.png"),
        "--steps",
        "2",
        "--layers",
        "2",
        "--json",
        "-o",
        str(tmp_path / "two.png"),
    ]
    several = CliRunner().invoke(generate, [words[0], *prompts, *more])
    assert several.exit_code == 0, several.output
    told = [(one["prompt"], one["seed"]) for one in json.loads(several.stdout)["images"]]
    assert told == [("a cat", 5)] * 2 + [("a dog", 6)] * 2
    refused = CliRunner().invoke(generate, [*words, "-o", str(tmp_path / "out.jpg")])
    assert "out.jpg: got the suffix '.jpg', expected one of .png, .webp; name it out.png" in str(refused.exception)


def test_the_server_sends_layers(ours, tmp_path):
    import base64
    import io

    import httpx
    from running_server import running_server

    stream = io.BytesIO()
    TALL.convert("RGB").resize((64, 64)).save(stream, "PNG")
    files = {"image": ("in.png", stream.getvalue(), "image/png")}
    form = {"prompt": "a cat", "seed": "5", "num_inference_steps": "2", "layers": "2"}
    with running_server([ours]) as server:
        url = f"{server.url}/v1/images/edits"
        answer = httpx.post(url, data=form, files=files, timeout=120)
        assert answer.status_code == 200, answer.text
        refused = httpx.post(url, data={**form, "output_format": "jpeg"}, files=files, timeout=60)
    body = answer.json()
    assert body["background"] == "transparent"
    modes = [Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))).mode for one in body["data"]]
    assert modes == ["RGBA", "RGBA"]
    assert refused.status_code == 400
    assert "output_format: got 'jpeg', expected 'png' or 'webp': this model makes transparent images" in refused.text


@pytest.mark.parametrize("name", ["use_additional_t_cond", "use_layer3d_rope"])
def test_a_network_of_whole_images_is_refused(ours, name):
    config = {**ours.denoiser._config, name: False}
    words = f"transformer/config.json: field '{name}': got false, expected true: no other network of this class is"
    with pytest.raises(ConfigError, match=words):
        read_layout(config, "transformer/config.json", layered=True)


def test_triton_takes_opaque_images_only(exported, folder, tmp_path):
    with pytest.raises(InputError, match="--to triton: .* makes images with transparency, expected opaque ones"):
        write_repository(Bundle(exported(folder)), tmp_path / "out")
