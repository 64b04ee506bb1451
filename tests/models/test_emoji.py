"""The shipped emoji model, and the two commands beside it."""

import argparse
import importlib.resources
import json
import struct

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffoundry.exporter.verify.checks.nearest_image import open_gallery  # noqa: E402
from diffoundry_models.emoji import score, train  # noqa: E402
from diffoundry_models.emoji.training import command, data, fetch  # noqa: E402

SHIPPED = importlib.resources.files("diffoundry_models") / "emoji"


def test_shipped_weights_are_half_precision_safetensors_that_can_be_written():
    files = [f for f in SHIPPED.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert sum(f.stat().st_size for f in files) < 25e6
    assert not [f for f in files if not f.stat().st_mode & 0o200 or f.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]
    weights = [f for f in files if f.suffix == ".safetensors"]
    assert {f.parent.name for f in weights} == {"text_encoder", "unet", "vae"}
    for file in weights:
        with file.open("rb") as handle:
            header = json.loads(handle.read(struct.unpack("<Q", handle.read(8))[0]))
        assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F16"}


def test_shipped_text_encoder_has_the_names_of_published_checkpoints():
    """transformers 5 reads both, transformers 4.57 builds random weights for names without "text_model."."""
    from safetensors.torch import load_file
    from transformers import CLIPTextModel

    names = set(load_file(str(SHIPPED / "text_encoder/model.safetensors")))
    model, info = CLIPTextModel.from_pretrained(str(SHIPPED / "text_encoder"), output_loading_info=True)
    assert names == {f"text_model.{name}" for name in model.state_dict() if name != "embeddings.position_ids"}
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_shipped_captions_are_263_different_labels():
    labels = data.read_labels(SHIPPED / "captions.json")
    assert len(labels) == len(set(labels)) == 263
    assert labels[0] == "grinning face"
    assert all(label == label.lower() for label in labels)


def test_shipped_card_and_notice_name_the_sources_and_the_licences():
    card, notice = ((SHIPPED / name).read_text(encoding="utf-8") for name in ("README.md", "NOTICE"))
    assert card.startswith("---\nlicense: ")
    for package in (fetch.IMAGES, fetch.LABELS):
        assert f"{package.name} {package.version}" in notice
        assert package.name in card
    for holder in ("Microsoft Corporation", "Miles Johnson", "LobeHub"):
        assert holder in notice
    assert "THE SOFTWARE IS PROVIDED" in notice


def test_nearest_against_numpy():
    rng = np.random.default_rng(0)
    generated, known = rng.uniform(-1, 1, (2, 3, 64, 64)), rng.uniform(-1, 1, (3, 3, 128, 128))
    small, other = (x.reshape(len(x), 3, 32, x.shape[2] // 32, 32, -1).mean((3, 5)) for x in (generated, known))
    want = ((small[:, None] - other[None]) ** 2).mean((2, 3, 4))
    got = score.nearest(torch.tensor(generated), torch.tensor(known))
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)


def test_score_counts_names_and_averages():
    distances = torch.tensor([[0.10, 0.20, 0.30], [0.05, 0.40, 0.50], [0.30, 0.20, 0.01]])
    got = score.score(distances, [0, 1, 2], ["sun", "moon", "star"])
    assert got["top1_percent"] == 66.67
    assert got["mse"] == pytest.approx((0.10 + 0.40 + 0.01) / 3, abs=1e-5)
    assert got["missed"] == [{"label": "moon", "nearest": "sun"}]
    assert [w["label"] for w in got["worst"]] == ["moon", "sun", "star"]


def test_psnr_of_an_autoencoder_that_adds_a_constant():
    class Shift:
        device = "cpu"

        def encode(self, x):
            latents = argparse.Namespace(mean=x)
            return argparse.Namespace(latent_dist=latents)

        def decode(self, z):
            return argparse.Namespace(sample=z + 0.02)

    images = torch.zeros(40, 3, 8, 8)
    images[:20] = 0.99  # clamped at 1: an error of 0.01
    want = 10 * np.log10(4 / ((0.01**2 + 0.02**2) / 2))
    assert score.reconstruction_psnr(Shift(), images) == pytest.approx(want, abs=1e-3)


def test_generate_does_not_depend_on_the_batch(tiny_checkpoint):
    pipeline = score.open_pipeline(tiny_checkpoint, "cpu")
    prompts = ["a sun", "a droplet", "a red heart"]
    settings = {"guidance": 4.0, "steps": 2, "seed": 3}
    together, alone = (
        score.generate(pipeline, prompts, argparse.Namespace(batch=batch, **settings)) for batch in (3, 1)
    )
    assert together.shape == (3, 3, 64, 64)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    whole = pipeline(
        "a droplet",
        num_inference_steps=2,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    )
    np.testing.assert_allclose((alone[1].permute(1, 2, 0).numpy() + 1) / 2, whole.images[0], atol=1e-5)


def test_the_commands_train_score_and_resume(tmp_path, data_folder, tiny_checkpoint, capsys):
    out = tmp_path / "out"
    common = ["--data", str(data_folder), "--out", str(out), "--init", str(tiny_checkpoint), "--labels", "all"]
    short = ["--steps", "3", "--batch", "2", "--lr", "1e-3"]
    assert train.main([*common, *short]) == 0
    said = capsys.readouterr().err
    assert "tokenizer: kept" in said
    for stage in ("vae", "vae-decoder", "denoiser"):
        assert f"\n{stage}: step 3/3, loss " in said
    assert train.main([*common, *short, "--resume"]) == 0
    assert capsys.readouterr().err.count("finished before, at step 3") == 3
    assert train.main([*common, *short]) == 1
    assert "error: " in capsys.readouterr().err

    grid = tmp_path / "grid.png"
    asked = [str(out), "--data", str(data_folder), "--steps", "2", "--only", "sun", "red heart", "--json"]
    thumbnails = out / "thumbnails.png"
    assert score.main([*asked, "--grid", str(grid), "--thumbnails", str(thumbnails)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["labels"] == 2
    assert result["steps"] == 2
    assert {entry["label"] for entry in result["worst"]} == {"sun", "red heart"}
    assert grid.read_bytes().startswith(b"\x89PNG")
    gallery = open_gallery(out)
    images = data.images(data.select(data.load_emoji(data_folder), gallery.labels))
    shown = gallery.thumbnails.reshape(-1, 16, 16, 3)[gallery.labels.index("sun")]
    sun = images[gallery.labels.index("sun")].reshape(3, 16, 4, 16, 4).mean((2, 4)).permute(1, 2, 0)
    np.testing.assert_allclose(shown, (sun + 1) / 2, atol=0.51 / 255)


def test_the_commands_report_errors(tmp_path, data_folder, tiny_checkpoint, capsys, monkeypatch):
    given = ["--data", str(data_folder)]
    assert score.main([str(tmp_path), *given]) == 1
    assert "is not a checkpoint folder: it has no model_index.json" in capsys.readouterr().err
    (tmp_path / "model_index.json").symlink_to(tiny_checkpoint / "model_index.json")
    for folder in ("scheduler", "tokenizer", "unet", "vae", "text_encoder"):
        (tmp_path / folder).symlink_to(tiny_checkpoint / folder)
    assert score.main([str(tmp_path), *given, "--only", "fog"]) == 1
    assert "--only fog: not among the 263 labels of" in capsys.readouterr().err
    assert train.main([*given, "--out", str(tmp_path / "o")]) == 1
    assert "259 of 263 labels have no image, the first is 'grinning face'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train.main(["--out", "o", "--steps", "0"])
    assert "argument --steps: must be above zero, got 0" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train.main([*given, "--out", "o", "--device", "cuda"]) == 1
    assert "PyTorch finds no CUDA device here" in capsys.readouterr().err
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None if name == "diffusers" else object())
    assert score.main(given) == 1
    assert "pip install './models[train]'" in capsys.readouterr().err


def test_shipped_weights_generate_a_red_apple():
    """Without the training images: red where the apple is, white in the corners, and never flat."""
    pipeline = score.open_pipeline(SHIPPED, "cpu")
    settings = argparse.Namespace(guidance=4.0, steps=10, seed=0, batch=1)
    red, green, blue = score.generate(pipeline, ["a red apple"], settings)[0]
    middle = (slice(28, 52), slice(16, 48))
    assert red[middle].mean() > 0.5
    assert green[middle].mean() < -0.3
    assert blue[middle].mean() < 0.0
    assert min(part[:8, -8:].mean() for part in (red, green, blue)) > 0.9


@pytest.mark.slow
def test_shipped_weights_score_as_the_card_says(capsys):
    """Over three labels; needs npm, or the packages in the cache."""
    labels = ["red apple", "rocket", "ferris wheel"]
    assert score.main(["--only", *labels, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["top1_percent"] == 100.0
    assert result["mse"] < 0.02
    assert result["vae_psnr_db"] == pytest.approx(29.29, abs=0.05)
