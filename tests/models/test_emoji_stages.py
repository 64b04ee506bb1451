"""The emoji model's stages: their losses, what they move, and what they write."""

import dataclasses
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline  # noqa: E402
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from diffoundry.runtime.errors import CheckpointError  # noqa: E402
from diffoundry_models.emoji.training import checkpoint, data, denoiser, loop, stages, vae  # noqa: E402
from diffoundry_models.emoji.training.workspace import Workspace  # noqa: E402

OPTIONS = loop.Options(steps=5, batch=3, lr=1e-2, warmup=2, decay=0.9, seed=4)
CHANGES = {"steps": 5, "batch": 3, "lr": 1e-2, "warmup": 2, "seed": 4}


def _silent(_line):
    pass


def test_reconstruction_loss_against_numpy():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 2, 3, 8, 8)).astype(np.float32)
    d = a - b
    want = (
        np.abs(d).mean() + (d**2).mean() + 0.5 * (np.abs(np.diff(d, axis=2)).mean() + np.abs(np.diff(d, axis=3)).mean())
    )
    assert float(vae.reconstruction_loss(torch.tensor(a), torch.tensor(b))) == pytest.approx(want, rel=1e-5)


def test_autoencoder_loss_has_the_divergence_of_diffusers(tmp_path, workspace, monkeypatch):
    task = vae.autoencoder_task(workspace(tmp_path, count=1), OPTIONS)
    seen = []
    monkeypatch.setattr(vae, "reconstruction_loss", lambda output, target: seen.append(target) or output.sum() * 0)
    loss = task.loss(torch.Generator().manual_seed(1))
    moments = task.module.encode(seen[0]).latent_dist.parameters
    per_latent = DiagonalGaussianDistribution(moments).kl().mean() / moments[0, :4].numel()
    assert loss.item() == pytest.approx(5e-4 * per_latent.item(), rel=1e-4)


def test_images_are_shifted_by_at_most_one_pixel(tmp_path, workspace, monkeypatch):
    space = workspace(tmp_path, count=1)
    task = vae.autoencoder_task(space, dataclasses.replace(OPTIONS, batch=64))
    seen = []
    monkeypatch.setattr(vae, "reconstruction_loss", lambda output, target: seen.append(target) or output.sum() * 0)
    task.loss(torch.Generator().manual_seed(1))
    moved = {(y, x): torch.roll(space.images[0], (y, x), (1, 2)) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    found = {next(k for k, v in moved.items() if torch.equal(v, image)) for image in seen[0]}
    assert found == set(moved)


def test_decoder_stage_moves_the_decoder_only(tmp_path, workspace):
    space = workspace(tmp_path)
    before = load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    scale = AutoencoderKL.load_config(tmp_path / "vae")["scaling_factor"]
    assert stages.run_stage("vae-decoder", space, loop.Session(report=_silent), CHANGES)
    after = load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"decoder", "post_quant_conv"}
    assert AutoencoderKL.load_config(tmp_path / "vae")["scaling_factor"] == scale


def test_decoder_stage_disturbs_latents_by_a_quarter_of_their_spread(tmp_path, workspace, tiny_checkpoint, monkeypatch):
    space = workspace(tmp_path, count=1)
    network = checkpoint.load_network(AutoencoderKL, tiny_checkpoint / "vae")
    with torch.no_grad():
        network.quant_conv.weight[4:] = 0
        network.quant_conv.bias[4:] = -30  # hardly any variance: what is left is the disturbance
    checkpoint.write_component(network.half(), tmp_path / "vae")
    task = vae.decoder_task(space, dataclasses.replace(OPTIONS, batch=512))
    mean = task.module.encode(space.images).latent_dist.mean.detach()
    shifted = [
        task.module.encode(torch.roll(space.images, (y, x), (2, 3))).latent_dist.mean.detach()
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
    ]
    seen = []
    white = torch.ones(512, 3, 64, 64, requires_grad=True)
    decode = lambda z: seen.append(z) or type("Out", (), {"sample": white})  # noqa: E731
    monkeypatch.setattr(task.module, "decode", decode)
    task.loss(torch.Generator().manual_seed(1))
    spread = float(torch.stack(shifted).std())
    noise = torch.stack([seen[0] - one for one in shifted]).square().mean((2, 3, 4)).min(0).values.sqrt() / spread
    assert mean.shape == (1, 4, 8, 8)
    # 256 numbers an image: the strength that was drawn, to about 5 %.
    assert 0.23 < noise.max() < 0.29
    assert noise.min() < 0.01
    assert float(noise.mean()) == pytest.approx(0.125, abs=0.01)


def test_scaling_factor_is_the_inverse_of_the_latents_spread(tmp_path, workspace, tiny_checkpoint):
    space = workspace(tmp_path)
    network = checkpoint.load_network(AutoencoderKL, tiny_checkpoint / "vae")
    vae.write_vae(space, network, rescale=True)
    posterior = network.encode(space.images).latent_dist
    draws = torch.cat([posterior.sample(torch.Generator().manual_seed(i)) for i in range(50)])
    factor = AutoencoderKL.load_config(tmp_path / "vae")["scaling_factor"]
    assert factor == pytest.approx(1 / draws.std().item(), rel=0.01)
    assert network.dtype == torch.float32


def test_denoiser_loss_is_zero_for_a_network_that_knows_v(tmp_path, workspace, tiny_checkpoint):
    """An oracle that knows the only image's latents gives v exactly, so scale, noise and target must all be right."""
    space = workspace(tmp_path, count=1)
    network = checkpoint.load_network(AutoencoderKL, tiny_checkpoint / "vae")
    with torch.no_grad():
        network.quant_conv.weight[4:] = 0
        network.quant_conv.bias[4:] = -30
    checkpoint.write_component(network.half(), tmp_path / "vae")
    network = network.float()
    clean = network.encode(space.images).latent_dist.mean.detach() * network.config.scaling_factor
    alphas = DDIMScheduler.from_pretrained(tmp_path / "scheduler").alphas_cumprod
    steps_seen = []

    class Oracle(torch.nn.Module):
        def forward(self, noisy, steps, words):
            assert words.shape == (len(noisy), 77, 16)
            steps_seen.extend(steps.tolist())
            a = alphas[steps].view(-1, 1, 1, 1)
            noise = (noisy - a.sqrt() * clean) / (1 - a).sqrt()
            return type("Out", (), {"sample": a.sqrt() * noise - (1 - a).sqrt() * clean})

    task = denoiser.denoiser_task(space, dataclasses.replace(OPTIONS, batch=400))
    task.module["unet"] = Oracle()
    assert float(task.loss(torch.Generator().manual_seed(2))) < 1e-5
    assert min(steps_seen) < 20
    assert max(steps_seen) > 979


def test_from_scratch_takes_architecture_vocabulary_and_seed(tmp_path, workspace, tiny_checkpoint):
    space = workspace(tmp_path / "a", scratch=True)
    first, second, other = (
        denoiser.denoiser_task(space, dataclasses.replace(OPTIONS, seed=seed)).module for seed in (1, 1, 2)
    )
    given = load_file(tiny_checkpoint / "unet" / "diffusion_pytorch_model.safetensors")
    weights = first["unet"].state_dict()
    assert weights.keys() == given.keys()
    assert torch.equal(weights["conv_in.weight"], second["unet"].state_dict()["conv_in.weight"])
    assert not torch.equal(weights["conv_in.weight"], other["unet"].state_dict()["conv_in.weight"])
    assert first["text_encoder"].config.vocab_size == 4295
    assert first["text_encoder"].config.eos_token_id == 4294
    torch.testing.assert_close(
        vae.autoencoder_task(space, OPTIONS).module.state_dict(),
        vae.autoencoder_task(space, OPTIONS).module.state_dict(),
    )


@pytest.mark.slow
def test_training_from_scratch_lowers_the_loss(tmp_path, workspace):
    space = workspace(tmp_path, scratch=True)
    options = loop.Options(steps=60, batch=16, lr=1e-2, warmup=5)
    run = loop.Run(denoiser.denoiser_task(space, options), options)
    losses = [float(run.advance()) for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_written_components_open_in_diffusers_and_name_no_folder(tmp_path, workspace):
    space = workspace(tmp_path)
    for name in stages.STAGES:
        stages.run_stage(name, space, loop.Session(report=_silent), CHANGES)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path)
    assert pipeline.unet.config.sample_size == 8
    assert {str(v.dtype) for f in tmp_path.glob("*/*.safetensors") for v in load_file(f).values()} == {"torch.float16"}
    assert all(name.startswith("text_model.") for name in load_file(tmp_path / "text_encoder/model.safetensors"))
    assert not [f for f in tmp_path.rglob("*.json") if str(tmp_path) in f.read_text() or "/tiny" in f.read_text()]
    assert all(f.stat().st_mode & 0o777 == 0o644 for f in tmp_path.glob("*/*.safetensors"))
    assert not list(tmp_path.glob(".*"))


def test_missing_parts_are_named(tmp_path, data_folder, tiny_checkpoint):
    emoji = data.load_emoji(data_folder)
    space = Workspace(out=tmp_path, init=None, architecture=tiny_checkpoint, emoji=emoji, images=data.images(emoji))
    for name, missing, stage in (("vae-decoder", "vae", "vae"), ("denoiser", "tokenizer", "tokenizer")):
        with pytest.raises(CheckpointError, match=f"has no {missing} yet. Run --stage {stage} first, or .*--init"):
            stages.run_stage(name, space, loop.Session(), {})
    with pytest.raises(CheckpointError, match=r"nowhere lacks model_index.json, .*unet, vae\."):
        checkpoint.prepare_folder(tmp_path, tmp_path / "nowhere")


def test_weights_of_another_vocabulary_are_refused(tmp_path, workspace, data_folder):
    space = workspace(tmp_path)
    shutil.rmtree(tmp_path / "tokenizer")
    stages.make_tokenizer(tmp_path, data.load_emoji(data_folder), _silent)
    with pytest.raises(CheckpointError, match="The tokenizers of .* differ, .*Train into an empty folder"):
        stages.run_stage("denoiser", space, loop.Session(), CHANGES)
