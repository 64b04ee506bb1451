"""The upscaler: its training, its commands, and the shipped weights."""

import argparse
import copy
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
from torch.nn import functional  # noqa: E402

from diffoundry.runtime import load  # noqa: E402
from diffoundry_models.emoji.training import checkpoint, data, linear_start, loop, upscaler, upscaler_vae  # noqa: E402
from diffoundry_models.emoji.training.workspace import Workspace  # noqa: E402

SHIPPED = importlib.resources.files("diffoundry_models") / "emoji-x4"
OPTIONS = loop.Options(steps=2, batch=3, lr=1e-3, warmup=1, decay=0.5, seed=4)


@pytest.fixture(scope="module")
def tiny_x4(tmp_path_factory):
    """The shipped wiring around networks of a few thousand weights."""
    folder = tmp_path_factory.mktemp("x4")
    shutil.copyfile(SHIPPED / "model_index.json", folder / "model_index.json")
    for name in ("scheduler", "low_res_scheduler"):
        shutil.copytree(SHIPPED / name, folder / name)
    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        block_out_channels=(12, 12, 12),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=3,
        mid_block_add_attention=False,
        scaling_factor=0.08333,
    ).half().save_pretrained(folder / "vae")
    diffusers.UNet2DConditionModel(
        sample_size=64,
        in_channels=7,
        out_channels=4,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        num_class_embeds=101,
        norm_num_groups=4,
    ).half().save_pretrained(folder / "unet")
    return folder


@pytest.fixture
def space(data_folder, tiny_x4, tiny_base, tmp_path):
    out = tmp_path / "space"
    checkpoint.prepare_folder(out, tiny_x4, wiring=upscaler.WIRING, components=("unet", "vae"))
    for name in ("tokenizer", "text_encoder"):
        checkpoint.copy_component(tiny_base / name, out / name)
    emoji = data.load_emoji(data_folder)
    return Workspace(out=out, init=tiny_x4, architecture=tiny_x4, emoji=emoji, images=data.images(emoji))


def test_every_tenth_unknown_label_is_held_out():
    emoji = [data.Emoji(label=f"e{i}", tags=(), file=None) for i in range(25)]
    learned, held = upscaler.split(emoji, ["e0", "e3"])
    assert [one.label for one in held] == ["e1", "e12", "e22"]
    assert len(learned) == 22
    assert not {one.label for one in held} & {one.label for one in learned}


def test_the_first_autoencoder_averages_and_interpolates():
    torch.manual_seed(1)
    config = diffusers.AutoencoderKL.load_config(SHIPPED / "vae")
    vae = diffusers.AutoencoderKL.from_config(config)
    linear_start.start_linear(vae)
    image = functional.interpolate(2 * torch.rand(1, 3, 16, 16) - 1, size=(64, 64), mode="bicubic").clamp(-1, 1)
    with torch.no_grad():
        latents = vae.encode(image).latent_dist.mean
        output = vae.decode(latents).sample
    averaged = functional.avg_pool2d(image, 4)
    smooth = averaged
    for _ in range(2):
        smooth = functional.interpolate(smooth, scale_factor=2, mode="bilinear")
    for got, want in ((latents[:, :3], averaged), (output, smooth)):
        for color in range(3):
            inner = torch.stack([part[0, color, 2:-2, 2:-2].flatten() for part in (got, want)])
            assert torch.corrcoef(inner)[0, 1] > 0.9
            slope = inner.std(dim=1)
            assert float(slope[0] / slope[1]) == pytest.approx(1, abs=0.3)


def test_the_written_autoencoder_has_the_spread_of_diffusers_factor(space, monkeypatch):
    monkeypatch.setattr(upscaler_vae, "_SAMPLED", 1)
    network = checkpoint.load_network(diffusers.AutoencoderKL, space.init / "vae")
    with torch.no_grad():  # far from 12
        network.quant_conv.weight[:4] *= 3
    before = copy.deepcopy(network.state_dict())
    upscaler_vae.write_upscaler_vae(space, network)
    torch.testing.assert_close(network.state_dict(), before, atol=0, rtol=0)
    written = checkpoint.load_network(diffusers.AutoencoderKL, space.out / "vae")
    images = upscaler_vae.to_float(upscaler_vae.large_images(space.emoji))
    with torch.no_grad():
        posterior, plain = written.encode(images).latent_dist, network.encode(images).latent_dist
        draws = torch.cat([posterior.sample(torch.Generator().manual_seed(seed)) for seed in range(4)])
        scaled = draws.double() * 0.08333
        assert scaled.std((0, 2, 3)).tolist() == pytest.approx([1] * 4, rel=0.01)
        assert scaled.mean((0, 2, 3)).tolist() == pytest.approx([0] * 4, abs=0.01)
        assert written.config.scaling_factor == 0.08333
        # The same images, from the same draw.
        shown, expected = (
            net.decode(latents.sample(torch.Generator().manual_seed(1))).sample
            for net, latents in ((written, posterior), (network, plain))
        )
    torch.testing.assert_close(shown, expected, atol=0.02, rtol=0)


def test_the_autoencoder_learns_crops(space, monkeypatch):
    task = upscaler_vae.upscaler_vae_task(space, OPTIONS)
    seen = []
    monkeypatch.setattr(
        upscaler_vae, "reconstruction_loss", lambda output, target: seen.append((output, target)) or output.sum() * 0
    )
    task.loss(torch.Generator().manual_seed(1))
    output, target = seen[0]
    assert output.shape == target.shape == (3, 3, 64, 64)
    windows = upscaler_vae.to_float(upscaler_vae.large_images(space.emoji)).unfold(2, 64, 1).unfold(3, 64, 1)
    for crop in target:
        near = (windows[:, 0, :, :, 0, 0] == crop[0, 0, 0]) & (windows[:, 1, :, :, 63, 63] == crop[1, 63, 63])
        places = near.nonzero().tolist()
        assert any(torch.equal(windows[i, :, y, x], crop) for i, y, x in places)


def test_the_loss_is_zero_for_a_network_that_knows_v(space, tiny_base, monkeypatch):
    """An encoder that answers one number makes all crops alike, so an oracle knows the latents."""
    vae = checkpoint.load_network(diffusers.AutoencoderKL, space.out / "vae")
    with torch.no_grad():
        vae.quant_conv.weight.zero_()
        vae.quant_conv.bias[:4], vae.quant_conv.bias[4:] = 6.0, -30.0
    checkpoint.write_component(vae.half(), space.out / "vae")
    monkeypatch.setattr(upscaler, "_SOFT", 0.0)
    white = dataclasses.replace(space, images=torch.ones_like(space.images))
    task = upscaler.upscaler_task(white, OPTIONS, tiny_base)
    low_res_scheduler = diffusers.DDPMScheduler.from_pretrained(SHIPPED / "low_res_scheduler")
    alphas = diffusers.DDIMScheduler.from_pretrained(SHIPPED / "scheduler").alphas_cumprod
    seen = []

    def oracle(sample, steps, words, class_labels):
        assert sample.shape == (3, 7, 32, 32)
        assert words.shape == (3, 77, 16)
        seen.append((sample[:, 4:], class_labels))
        a = alphas[steps].view(-1, 1, 1, 1)
        clean = 6 * 0.08333
        noise = (sample[:, :4] - a.sqrt() * clean) / (1 - a).sqrt()
        return argparse.Namespace(sample=a.sqrt() * noise - (1 - a).sqrt() * clean)

    monkeypatch.setattr(task.module, "forward", oracle)
    generator = torch.Generator().manual_seed(2)
    assert max(float(task.loss(generator)) for _ in range(60)) < 1e-5
    levels = torch.cat([labels for _, labels in seen])
    assert (int(levels.min()), int(levels.max())) == (0, 100)
    # White images: what differs from white has the strength of the level's noise.
    small, kept = torch.cat([image for image, _ in seen]), low_res_scheduler.alphas_cumprod[levels]
    strength = (small - kept.sqrt().view(-1, 1, 1, 1)).flatten(1).std(dim=1)
    torch.testing.assert_close(strength, (1 - kept).sqrt(), atol=0, rtol=0.06)


def test_psnr_and_similarity_against_numpy(load_script):
    score = load_script("emoji-x4", "score")
    rng = np.random.default_rng(0)
    target = rng.uniform(-1, 1, (2, 3, 14, 13)).astype(np.float32)
    output = (target + rng.normal(scale=0.2, size=target.shape)).astype(np.float32)
    error = ((output - target) ** 2).mean((1, 2, 3))
    got = score.psnr(torch.tensor(output), torch.tensor(target))
    np.testing.assert_allclose(got.numpy(), 10 * np.log10(4 / error), rtol=1e-5)

    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(line, line) / line.sum() ** 2
    values = []
    for a, b in zip(output.reshape(-1, 14, 13), target.reshape(-1, 14, 13), strict=True):
        for y in range(4):
            for x in range(3):
                p, q = (part[y : y + 11, x : x + 11].astype(np.float64) for part in (a, b))
                means = [(weights * part).sum() for part in (p, q)]
                spreads = [(weights * (part - mean) ** 2).sum() for part, mean in zip((p, q), means, strict=True)]
                shared = (weights * (p - means[0]) * (q - means[1])).sum()
                light, contrast = 0.02**2, 0.06**2
                above = (2 * means[0] * means[1] + light) * (2 * shared + contrast)
                values.append(above / ((means[0] ** 2 + means[1] ** 2 + light) * (sum(spreads) + contrast)))
    want = np.reshape(values, (2, -1)).mean(1)
    np.testing.assert_allclose(score.similarity(torch.tensor(output), torch.tensor(target)).numpy(), want, rtol=1e-4)


@pytest.mark.slow
def test_the_commands_train_resume_and_score(
    data_folder, tiny_base, tiny_x4, tmp_path, load_script, capsys, monkeypatch
):
    train, score = (load_script("emoji-x4", name) for name in ("train", "score"))
    monkeypatch.setattr(train, "_HERE", tiny_x4)
    out, base = tmp_path / "out", ["--data", str(data_folder), "--base", str(tiny_base)]
    common = [*base, "--out", str(out), "--steps", "2", "--batch", "2"]
    assert train.main(common) == 0
    said = capsys.readouterr().err
    assert "vae: step 2/2, loss " in said
    assert "unet: step 2/2, loss " in said
    assert train.main([*common, "--resume"]) == 0
    assert capsys.readouterr().err.count("finished before, at step 2") == 2
    assert type(diffusers.DiffusionPipeline.from_pretrained(out)).__name__ == "StableDiffusionUpscalePipeline"
    weights = {str(value.dtype) for file in out.glob("*/*.safetensors") for value in load_file(file).values()}
    assert weights == {"torch.float16"}
    grid = tmp_path / "grid.png"
    asked = [str(out), *base, "--steps", "1", "--upscale-steps", "1", "--json"]
    for source, count in (("held-out", 1), ("base", 2)):
        assert score.main([*asked, "--source", source, "--grid", str(grid)]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["images"] == count
        assert set(result["upscaler"]) == set(result["bicubic"]) == {"psnr_db", "ssim"}
    assert grid.read_bytes().startswith(b"\x89PNG")
    assert score.main([*asked, "--only", "moon"]) == 1
    assert "--only moon: not among the 1 labels of --source held-out" in capsys.readouterr().err


@pytest.fixture(scope="module")
def shipped_bundle(exported):
    return lambda target: exported("emoji-x4", target=target)


@pytest.fixture(scope="module")
def small(emoji_bundle):
    """An emoji that the base generates, and its prompt."""
    return "a red apple", load(emoji_bundle)("a red apple", num_inference_steps=8, guidance_scale=4.0, seed=0).images[0]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_shipped_weights_upscale_emoji(shipped_bundle, small, target):
    """A large image that is the small one when averaged, with harder edges than Lanczos gives."""
    prompt, image = small
    settings = {"num_inference_steps": 5, "guidance_scale": 1.0, "seed": 0, "output_type": "np"}
    large = load(shipped_bundle(target))(prompt, image=image, **settings).images[0]
    assert large.shape == (256, 256, 3)
    averaged = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert -10 * np.log10(np.square(averaged - np.asarray(image) / 255).mean()) > 26
    plain = np.asarray(image.resize((256, 256), Image.Resampling.LANCZOS)) / 255
    hard, soft = (np.quantile(np.abs(np.diff(part, axis=1)), 0.999) for part in (large, plain))
    assert hard > 1.5 * soft


@pytest.mark.slow
def test_diffusers_upscales_the_same(shipped_bundle, small):
    prompt, image = small
    ours = load(shipped_bundle("onnxruntime"))
    theirs = open_theirs(SHIPPED, "StableDiffusionUpscalePipeline").to(dtype=torch.float32)
    compare_system(
        ours,
        theirs,
        prompt=prompt,
        image=image.crop((16, 16, 48, 48)),
        num_inference_steps=3,
        guidance_scale=2.0,
        noise_level=30,
        tolerance=1e-3,
    )


def test_shipped_files():
    weights = list(SHIPPED.glob("*/*.safetensors"))
    assert {file.parent.name for file in weights} == {"text_encoder", "unet", "vae"}
    assert sum(file.stat().st_size for file in weights) < 6e6
    assert {value.dtype for file in weights for value in load_file(file).values()} == {torch.float16}
    for name in ("text_encoder/model.safetensors", "tokenizer/tokenizer.json"):
        assert (SHIPPED / name).read_bytes() == (checkpoint.SHIPPED / name).read_bytes()
    card, notice = ((SHIPPED / name).read_text(encoding="utf-8") for name in ("README.md", "NOTICE"))
    for package in ("@lobehub/fluent-emoji-3d 1.1.0", "emojibase-data 17.0.0"):
        assert package in notice
        assert package.split()[0] in card
    assert "THE SOFTWARE IS PROVIDED" in notice
