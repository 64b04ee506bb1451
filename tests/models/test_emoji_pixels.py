"""The pixel model: its training, its commands, and the shipped weights."""

import argparse
import dataclasses
import importlib.resources
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from system_pair import compare_system, open_theirs  # noqa: E402

from diffoundry.runtime import load  # noqa: E402
from diffoundry_models.emoji.training import checkpoint, data, loop, pixels  # noqa: E402
from diffoundry_models.emoji.training.workspace import Workspace  # noqa: E402

SHIPPED = importlib.resources.files("diffoundry_models") / "emoji-pixels"
OPTIONS = loop.Options(steps=3, batch=2, lr=1e-2, warmup=2, decay=0.5, seed=4)


@pytest.fixture(scope="module")
def tiny_pixels(data_folder, tmp_path_factory):
    """The shipped wiring around a network of a few thousand weights, with the labels of the tiny data."""
    folder = tmp_path_factory.mktemp("pixels")
    shutil.copyfile(SHIPPED / "model_index.json", folder / "model_index.json")
    shutil.copytree(SHIPPED / "scheduler", folder / "scheduler")
    torch.manual_seed(0)
    diffusers.UNet2DModel(
        sample_size=32,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=4,
    ).half().save_pretrained(folder / "unet")
    data.write_captions(data.load_emoji(data_folder), folder / "captions.json")
    return folder


@pytest.fixture
def space(data_folder, tiny_pixels, tmp_path):
    emoji = data.load_emoji(data_folder)
    return Workspace(out=tmp_path, init=None, architecture=tiny_pixels, emoji=emoji, images=data.images(emoji))


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_loss_weighs_the_error_of_v_by_the_signal(space, monkeypatch, shift):
    """An oracle that knows the image, always white, and answers v plus a constant has the weights for its loss."""
    task = pixels.pixels_task(dataclasses.replace(space, images=torch.ones_like(space.images)), OPTIONS)
    alphas = diffusers.DDPMScheduler.from_pretrained(SHIPPED / "scheduler").alphas_cumprod
    seen = []

    def answer(sample, steps):
        assert sample.shape == (2, 3, 32, 32)
        seen.append(steps)
        a = alphas[steps].view(-1, 1, 1, 1)
        noise = (sample - a.sqrt()) / (1 - a).sqrt()
        return argparse.Namespace(sample=a.sqrt() * noise - (1 - a).sqrt() + shift)

    monkeypatch.setattr(task.module, "forward", answer)
    loss = float(task.loss(torch.Generator().manual_seed(1)))
    ratio = (alphas / (1 - alphas))[seen[0]].numpy()
    weights = np.minimum(ratio, 5) / (ratio + 1)
    assert loss == pytest.approx(float(shift * weights.mean()), rel=1e-3, abs=1e-6)


def test_the_commands_train_resume_and_score(data_folder, tiny_pixels, tmp_path, load_script, capsys, monkeypatch):
    train, score = (load_script("emoji-pixels", name) for name in ("train", "score"))
    monkeypatch.setattr(train, "_HERE", tiny_pixels)
    out = tmp_path / "out"
    common = ["--data", str(data_folder), "--out", str(out), "--steps", "4", "--batch", "2"]
    assert train.main([*common, "--save-every", "2"]) == 0
    assert "unet: step 4/4, loss " in capsys.readouterr().err
    assert train.main([*common, "--resume"]) == 0
    assert "unet: finished before, at step 4" in capsys.readouterr().err
    pipeline = diffusers.DiffusionPipeline.from_pretrained(out)
    assert type(pipeline).__name__ == "DDPMPipeline"
    weights = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}

    finer = ["--data", str(data_folder), "--out", str(tmp_path / "finer"), "--init", str(out), "--steps", "1"]
    assert train.main([*finer, "--batch", "2", "--lr", "1e-9"]) == 0
    again = load_file(tmp_path / "finer" / "unet" / "diffusion_pytorch_model.safetensors")
    torch.testing.assert_close(again, weights, atol=1e-3, rtol=0)

    capsys.readouterr()
    grid = tmp_path / "grid.png"
    asked = [str(out), "--data", str(data_folder), "--count", "3", "--steps", "2", "--json", "--grid", str(grid)]
    assert score.main(asked) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["images"], result["of_kinds"]) == (3, 4)
    assert grid.read_bytes().startswith(b"\x89PNG")


def test_generated_images_do_not_depend_on_the_batch(tiny_pixels, load_script):
    score = load_script("emoji-pixels", "score")
    pipeline = score.open_pipeline(tiny_pixels, "cpu")
    options = {"count": 3, "steps": 2, "seed": 5}
    together, alone = (score.generate(pipeline, argparse.Namespace(batch=batch, **options)) for batch in (2, 1))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    other = pipeline(generator=torch.Generator().manual_seed(7), num_inference_steps=2, output_type="pt").images
    torch.testing.assert_close((alone[2:] + 1) / 2, other, atol=1e-5, rtol=0)


def test_score_counts_kinds_and_distances(load_script):
    known = torch.zeros(3, 3, 32, 32)
    known[1] += 0.4
    known[2] += 1.0
    generated = torch.stack([known[0] + 0.1, known[0] - 0.1, known[1] + 0.2])
    got = load_script("emoji-pixels", "score").score(generated, known)
    assert (got["images"], got["kinds"], got["of_kinds"]) == (3, 2, 3)
    assert got["mse"] == pytest.approx((0.01 + 0.01 + 0.04) / 3, abs=1e-4)
    assert got["mse_median"] == pytest.approx(0.01)
    assert got["mse_between_training_images"] == pytest.approx((0.16 + 0.16 + 0.36) / 3, abs=1e-4)


@pytest.fixture(scope="module")
def shipped_bundle(exported):
    return exported("emoji-pixels", target="onnxruntime,openvino")


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_shipped_weights_generate_emoji(shipped_bundle, target):
    """Images whose nearest training image is near, and not always the same."""
    pipe = load(shipped_bundle, target=target)
    images = np.asarray(pipe(batch_size=6, seed=0, num_inference_steps=20, output_type="np").images)
    with Image.open(SHIPPED / "thumbnails.png") as sheet:
        known = np.asarray(sheet.convert("RGB"), dtype=np.float64) / 255
    known = known.reshape(-1, 16, 16, 16, 3).swapaxes(1, 2).reshape(-1, 16, 16, 3)[:33]
    small = images.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4))
    errors = np.square(small[:, None] - known).mean((2, 3, 4))
    assert np.median(errors.min(axis=1)) < 0.004
    assert len(set(errors.argmin(axis=1))) > 2


def test_diffusers_generates_the_same(shipped_bundle):
    ours = load(shipped_bundle, target="onnxruntime")
    compare_system(ours, open_theirs(SHIPPED, "DDPMPipeline"), num_inference_steps=5, tolerance=1e-3)


def test_shipped_files():
    weights = SHIPPED / "unet" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 6e6
    assert {value.dtype for value in load_file(weights).values()} == {torch.float16}
    labels = data.read_labels(SHIPPED / "captions.json")
    assert labels == data.read_labels(checkpoint.SHIPPED / "captions.json")[::8]
    card, notice = ((SHIPPED / name).read_text(encoding="utf-8") for name in ("README.md", "NOTICE"))
    for package in ("@lobehub/fluent-emoji-3d 1.1.0", "emojibase-data 17.0.0"):
        assert package in notice
        assert package.split()[0] in card
    assert "THE SOFTWARE IS PROVIDED" in notice
