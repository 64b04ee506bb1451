"""Every option that takes a path, with relative paths out of another working folder."""

import json
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from lora_files import random_lora
from PIL import Image
from safetensors.numpy import load_file, save_file
from tiny_flux import SCHNELL, make_flux

from diffoundry.exporter.tune import session
from diffoundry.exporter.tune.approximation import Approximation
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.group import COMMANDS, group
from diffoundry.runtime.errors import CheckpointError, DiffoundryError, InputError
from diffoundry.serving.server import run

_TRIED = {
    "export": {
        "--model", "--vae", "--lora", "--controlnet", "--output", "--calibration-prompts", "--t2i-adapter",
        "--ip-adapter", "--image-encoder", "--transformer",
    },
    "convert": {"source", "--output"},
    "build": {"words", "--calibration-prompts"},  # the bundle is among the words
    "generate": {
        "bundle", "--like", "--prompts", "--lora", "--embedding", "--image", "--mask", "--control-image",
        "--control-mask", "--cache-dir", "--output", "--adapter-image", "--image-prompt", "--image-prompt-mask",
        "--depth-map", "--hint-image", "--original-image", "--prior-image", "--image-reference",
    },
    "serve": {"bundles", "--api-key-file", "--lora-dir", "--cache-dir"},
    "deploy": {"bundle", "--output"},
    "verify": {"bundle", "--against", "--cache-dir", "--html"},
    "compare": {"bundle", "--against", "--cache-dir", "--html"},
    "tune": {"bundle", "--cache-dir"},
    "bench": {"bundle", "--cache-dir", "--html"},
    "inspect": {"bundle"},
    "schedulers": {"bundle"},
    "set": {"bundle"},
    "targets": set(),
}  # fmt: skip
"""Command to its options and arguments that a test below gives a relative path."""

_NO_PATHS = {
    ("bench", "--against"),
    *(("generate", name) for name in ("--vae-tiling", "--vae-tile-size", "--tile-sample-min-size", "--vae-slicing")),
    ("generate", "--output-resolution"),
}
"""Options whose words look like one: --against of `bench` is "torch"."""


def _takes_path(command: str, parameter: click.Parameter) -> bool:
    name = max(parameter.opts, key=len)
    words = f"{parameter.metavar or ''} {name}"
    named = any(word in words for word in ("FILE", "DIR", "PATH", "--model", "--against", "--output", "--vae"))
    return (isinstance(parameter.type, click.Path) or named) and (command, name) not in _NO_PATHS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_path_option_is_in_the_table(name):
    command = group.get_command(None, name)
    assert {max(p.opts, key=len) for p in command.params if _takes_path(name, p)} == _TRIED[name]


@pytest.fixture
def away(tmp_path, monkeypatch):
    """A working folder beside the folder `in` of the inputs."""
    for folder in ("in", "work/deeper/new"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work/deeper")
    return tmp_path


def _run(*words):
    group.main([str(word) for word in words], standalone_mode=False)


def _bring(folder, name):
    """Put a copy of a shared folder beside the others, and return the relative path to it."""
    shutil.copytree(folder, Path("../..") / name)
    return f"../../{name}"


def _same(image, **settings):
    """Compare a PNG with the image of the library call."""
    pipe = settings.pop("pipe")
    expected = pipe(num_inference_steps=2, seed=0, **settings).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(image)), np.asarray(expected))


@pytest.mark.parametrize("target", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_generate(away, wide_bundle, target):
    bundle = _bring(wide_bundle("sd1-tiny"), "b")
    Image.effect_noise((64, 64), 90).convert("RGB").save(away / "in/image.png")
    Image.linear_gradient("L").resize((64, 64)).save(away / "in/mask.png")
    (away / "in/prompts.txt").write_text("a cat\n")
    save_file({"<cat>": np.full((1, 32), 0.5, np.float32)}, away / "in/cat.safetensors")
    engine = ["--target", target, "--steps", 2, "--seed", 0, "--height", 64, "--width", 64, "--cache-dir", "../cache"]
    _run("generate", bundle, "--prompts", "../../in/prompts.txt", *engine, "-o", "prompts.png")
    _run("generate", bundle, "--like", "prompts.png", "--target", target, "-o", "../like.png")
    images = ["--image", "../../in/image.png", "--mask", "../../in/mask.png"]
    _run("generate", bundle, "a <cat>", *images, "--embedding", "../../in/cat.safetensors", *engine, "-o", "new/x.png")
    pipe = load(away / "b", target=target)
    _same("prompts.png", pipe=pipe, prompt="a cat", height=64, width=64)
    _same("../like.png", pipe=pipe, prompt="a cat", height=64, width=64)
    assert Image.open("new/x.png").size == (64, 64)


_IMAGES = (
    "--adapter-image", "--image-prompt", "--image-prompt-mask", "--depth-map", "--hint-image", "--original-image",
    "--prior-image", "--image-reference",
)  # fmt: skip


def test_images_of_other_pipelines_are_read_from_the_working_folder(away, wide_bundle):
    """A plain bundle takes none of them, which it says once the file is read."""
    bundle = _bring(wide_bundle("sd1-tiny"), "b")
    Image.linear_gradient("L").resize((64, 64)).save(away / "in/image.png")
    for option in _IMAGES:
        more = ["--image-prompt", "../../in/image.png"] if option == "--image-prompt-mask" else []
        with pytest.raises(InputError, match=r"\.\./\.\./in/none\.png"):
            _run("generate", bundle, "a cat", *more, option, "../../in/none.png")
        with pytest.raises(InputError) as caught:
            _run("generate", bundle, "a cat", *more, option, "../../in/image.png")
        assert "image.png" not in str(caught.value), option


def test_joined_networks_are_named_as_typed(away, tiny_sd_checkpoint):
    checkpoint = _bring(tiny_sd_checkpoint(), "in/checkpoint")
    for words in (
        ["--t2i-adapter", "../../in/none"],
        ["--ip-adapter", "../../in/none.safetensors"],
        ["--ip-adapter", "../../in/none.safetensors", "--image-encoder", "../../in/none"],
    ):
        with pytest.raises(DiffoundryError, match=r"\.\./\.\./in/none"):
            _run("export", "--model", checkpoint, "--target", "onnxruntime", *words, "-o", "new/my.bundle")


def test_bench_and_inspect(away, wide_bundle, capsys):
    bundle = _bring(wide_bundle("sd1-tiny"), "b")
    _run("inspect", bundle, "--json")
    assert json.loads(capsys.readouterr().out)["manifest"]["family"] == "stable_diffusion"
    few = ["--warmups", 0, "--repeats", 1, "--steps", 1]
    _run("bench", bundle, "--target", "openvino", "--cache-dir", "cache", *few, "--html", "new/bench.html")
    assert Path("new/bench.html").read_text().startswith("<!DOCTYPE html>")
    assert any(Path("cache").iterdir())


@pytest.mark.slow
def test_tune(away, wide_bundle, monkeypatch, capsys):
    bundle = _bring(wide_bundle("sd1-tiny"), "b")
    monkeypatch.setattr(session, "candidates", lambda _steps: [Approximation(cache="taylor:1")])
    few = ["--min-psnr", 0, "--prompts", 2, "--steps", 8, "--target", "openvino", "--cache-dir", "cache", "--json"]
    _run("tune", bundle, *few)
    assert json.loads(capsys.readouterr().out)["approximation"] == "cache=taylor:1"
    assert (Path(bundle) / "presets.json").is_file()
    assert any(Path("cache").iterdir())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none/x.html", "--html none/x.html: its folder none does not exist; make it, or choose another"),
        ("new", "--html new: is a folder, expected a file such as report.html"),
    ],
)
@pytest.mark.parametrize("command", ["bench", "verify", "compare"])
def test_a_report_that_cannot_be_written_is_refused_before_the_work(away, command, path, message):
    with pytest.raises(InputError, match=message):
        _run(command, "nothing.bundle", "--html", path)


@pytest.mark.slow
def test_verify_and_compare(away, tiny_sd_checkpoint, wide_bundle):
    bundle, checkpoint = _bring(wide_bundle("sd1-tiny"), "b"), _bring(tiny_sd_checkpoint("sd1-tiny"), "in/checkpoint")
    few = ["--against", checkpoint, "--cache-dir", "../cache", "--steps", 1, "--prompt", "a", "--precision", "fp32"]
    for command in ("verify", "compare"):
        _run(command, bundle, *few, "--html", f"new/{command}.html")
        assert Path(f"new/{command}.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt-rtx", "coreml"])
def test_export_and_build(away, tiny_sd_checkpoint, tiny_controlnet, target, monkeypatch):
    """With an empty cache of plans: TensorRT's builder works in a folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(away / "cache"))
    checkpoint = _bring(tiny_sd_checkpoint(), "in/checkpoint")
    vae, net = _bring(tiny_sd_checkpoint("sd1-tiny") / "vae", "in/vae"), _bring(tiny_controlnet(), "in/net")
    lora = random_lora(tiny_sd_checkpoint(), away / "in/lora.safetensors").relative_to(away)
    (away / "in/prompts.txt").write_text("a cat\na dog\n")
    more = ["--vae", vae, "--controlnet", net, "--lora", f"../../{lora}:0.5"]
    sizes = ["--batch", 2, "--height", 64, "--width", 64]
    _run("export", "--model", checkpoint, "--target", target, *more, *sizes, "-o", "new/my.bundle")
    recipe = Bundle("new/my.bundle").manifest.recipe
    assert recipe.loras[0].file == f"../../{lora}"
    engines = [
        engine for name in Bundle("new/my.bundle").components for engine in Bundle("new/my.bundle").engines(name)
    ]
    assert all(engine.pending is None and not engine.metadata.get("from_cache") for engine in engines)
    words = ["--target", "onnxruntime", "--precision", "int8-weights", "--min-psnr", 1]
    with pytest.raises(InputError, match=r"prompts \.\./\.\./in/prompts\.txt: got 2, expected at least 3"):
        _run("build", "new/my.bundle", *words, "--calibration-prompts", "../../in/prompts.txt")
    assert sorted(path.name for path in Path("new").iterdir()) == ["my.bundle"]


def test_a_transformer_is_read_where_it_was_typed(away):
    make_flux(away / "in/flux", scheduler={}, **SCHNELL)
    save_file({"double_blocks.0.img_attn.qkv.weight": np.ones((2, 2), np.float32)}, away / "in/t.safetensors")
    words = ["--model", "../../in/flux", "--transformer", "../../in/t.safetensors", "--target", "onnxruntime"]
    with pytest.raises(CheckpointError, match=r"\.\./\.\./in/t\.safetensors: .*tensor img_in\.weight: got none"):
        _run("export", *words, "-o", "new/flux.bundle")


def test_convert(away):
    torch.save({"w": torch.ones(3)}, away / "in/old.ckpt")
    _run("convert", "../../in/old.ckpt", "-o", "new/w.safetensors")
    assert load_file("new/w.safetensors")["w"].tolist() == [1, 1, 1]


def test_serve(away, wide_bundle, monkeypatch):
    """Everything but the server itself, which ends at once."""
    bundle, served = _bring(wide_bundle("sd1-tiny"), "b"), []
    (away / "in/loras").mkdir()
    save_file({}, away / "in/loras/style.safetensors")
    (away / "in/keys.txt").write_text("a-key-of-this-server\n")
    monkeypatch.setattr(run, "serve", lambda state, _: served.append((state.models["b"].pipeline, state.loras.names())))
    words = ["--api-key-file", "../../in/keys.txt", "--lora-dir", "../../in/loras", "--cache-dir", "../cache"]
    _run("serve", bundle, "--port", "0", *words)
    ((pipe, loras),) = served
    assert pipe.session.bundle.root == Path(bundle)
    assert loras == {"style": Path("../../in/loras/style.safetensors")}
    with pytest.raises(InputError, match=r"--api-key-file \.\./none\.txt: cannot be read"):
        _run("serve", bundle, "--port", "0", "--api-key-file", "../none.txt")
    with pytest.raises(InputError, match=r"--lora-dir \.\./none: got no folder"):
        _run("serve", bundle, "--port", "0", "--lora-dir", "../none")


def test_deploy(away, emoji_bundle):
    _run("deploy", _bring(emoji_bundle, "b.bundle"), "--to", "triton", "-o", "new/repository")
    assert Path("new/repository/b/1/b.bundle/diffoundry.json").is_file()


def test_schedulers_and_set(away, emoji_bundle, capsys):
    bundle = _bring(emoji_bundle, "b.bundle")
    _run("set", bundle, "scheduler=euler_a")
    _run("schedulers", bundle, "--json")
    assert '"default": "EulerAncestralDiscreteScheduler"' in capsys.readouterr().out
