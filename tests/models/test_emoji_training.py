"""The emoji model's training: losses, schedule, averaging, checkpoints, and runs that stop and resume."""

import copy
import dataclasses
import math
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline  # noqa: E402
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from diffoundry.models.emoji.training import checkpoint, data, denoiser, loop, stages, vae  # noqa: E402
from diffoundry.models.emoji.training.workspace import Workspace  # noqa: E402
from diffoundry.runtime.errors import CheckpointError, DiffoundryError  # noqa: E402

OPTIONS = loop.Options(steps=5, batch=3, lr=1e-2, warmup=2, decay=0.9, seed=4)
CHANGES = {"steps": 5, "batch": 3, "lr": 1e-2, "warmup": 2, "seed": 4}


def _silent(_line):
    pass


def _workspace(out, data_folder, tiny, *, scratch=False, count=4):
    emoji = data.load_emoji(data_folder)[:count]
    checkpoint.prepare_folder(out, tiny)
    return Workspace(
        out=out, init=None if scratch else tiny, architecture=tiny, emoji=emoji, pictures=data.pictures(emoji)
    )


def _weights(folder, state_file):
    """Everything that a run leaves: the written components, and all tensors of its last checkpoint."""
    left = {f"{f.parent.name}/{k}": v for f in folder.glob("*/*.safetensors") for k, v in load_file(f).items()}

    def walk(prefix, value):
        if isinstance(value, torch.Tensor):
            left[prefix] = value
        elif isinstance(value, dict):
            for key, part in value.items():
                walk(f"{prefix}.{key}", part)

    walk("state", checkpoint.load_state(state_file))
    return left


class _Killed(BaseException):
    pass


def test_rate_rises_then_falls_as_a_cosine():
    options = loop.Options(steps=1000, batch=1, lr=2.0, warmup=10)
    rates = [loop.learning_rate(options, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[4] == pytest.approx(1.0, rel=1e-3)
    assert rates[250] == pytest.approx(1 + math.sqrt(0.5))
    assert rates[500] == pytest.approx(1.0)
    assert 0 < rates[999] < 1e-5
    assert np.argmax(rates) in (9, 10)


def test_a_step_is_adamw_and_the_average_follows():
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 1)
    module.bias.requires_grad_(False)
    mine = copy.deepcopy(module)
    target = torch.randn(7, 3)

    def loss_of(network):
        return lambda generator: network(target + torch.randn(7, 3, generator=generator)).square().mean()

    run = loop.Run(loop.Task(stage="s", module=module, loss=loss_of(module), data="d"), OPTIONS)
    optimizer = torch.optim.AdamW([mine.weight], lr=1.0)
    generator = torch.Generator().manual_seed(OPTIONS.seed)
    mean = mine.weight.detach().clone()
    for step in range(4):
        run.advance()
        optimizer.param_groups[0]["lr"] = loop.learning_rate(OPTIONS, step)
        optimizer.zero_grad()
        loss_of(mine)(generator).backward()
        torch.nn.utils.clip_grad_norm_([mine.weight], 1.0)
        optimizer.step()
        decay = min(0.9, (2 + step) / (11 + step))
        mean = decay * mean + (1 - decay) * mine.weight.detach()
    torch.testing.assert_close(module.weight, mine.weight)
    torch.testing.assert_close(run.averaged.weight, mean)
    assert torch.equal(run.averaged.bias, module.bias)


def test_reconstruction_loss_against_numpy():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 2, 3, 8, 8)).astype(np.float32)
    d = a - b
    want = (
        np.abs(d).mean() + (d**2).mean() + 0.5 * (np.abs(np.diff(d, axis=2)).mean() + np.abs(np.diff(d, axis=3)).mean())
    )
    assert float(vae.reconstruction_loss(torch.tensor(a), torch.tensor(b))) == pytest.approx(want, rel=1e-5)


def test_autoencoder_loss_has_the_divergence_of_diffusers(tmp_path, data_folder, tiny_checkpoint, monkeypatch):
    task = vae.autoencoder_task(_workspace(tmp_path, data_folder, tiny_checkpoint, count=1), OPTIONS)
    seen = []
    monkeypatch.setattr(vae, "reconstruction_loss", lambda output, target: seen.append(target) or output.sum() * 0)
    loss = task.loss(torch.Generator().manual_seed(1))
    moments = task.module.encode(seen[0]).latent_dist.parameters
    per_latent = DiagonalGaussianDistribution(moments).kl().mean() / moments[0, :4].numel()
    assert loss.item() == pytest.approx(5e-4 * per_latent.item(), rel=1e-4)


def test_pictures_are_shifted_by_at_most_one_pixel(tmp_path, data_folder, tiny_checkpoint, monkeypatch):
    space = _workspace(tmp_path, data_folder, tiny_checkpoint, count=1)
    task = vae.autoencoder_task(space, dataclasses.replace(OPTIONS, batch=64))
    seen = []
    monkeypatch.setattr(vae, "reconstruction_loss", lambda output, target: seen.append(target) or output.sum() * 0)
    task.loss(torch.Generator().manual_seed(1))
    moved = {(y, x): torch.roll(space.pictures[0], (y, x), (1, 2)) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    found = {next(k for k, v in moved.items() if torch.equal(v, picture)) for picture in seen[0]}
    assert found == set(moved)


def test_decoder_stage_moves_the_decoder_only(tmp_path, data_folder, tiny_checkpoint):
    space = _workspace(tmp_path, data_folder, tiny_checkpoint)
    before = load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    scale = AutoencoderKL.load_config(tmp_path / "vae")["scaling_factor"]
    assert stages.run_stage("vae-decoder", space, loop.Session(report=_silent), CHANGES)
    after = load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"decoder", "post_quant_conv"}
    assert AutoencoderKL.load_config(tmp_path / "vae")["scaling_factor"] == scale


def test_decoder_stage_disturbs_latents_by_a_quarter_of_their_spread(
    tmp_path, data_folder, tiny_checkpoint, monkeypatch
):
    space = _workspace(tmp_path, data_folder, tiny_checkpoint, count=1)
    network = checkpoint.load_network(AutoencoderKL, tiny_checkpoint / "vae")
    with torch.no_grad():
        network.quant_conv.weight[4:] = 0
        network.quant_conv.bias[4:] = -30  # hardly any variance: what is left is the disturbance
    checkpoint.write_component(network.half(), tmp_path / "vae")
    task = vae.decoder_task(space, dataclasses.replace(OPTIONS, batch=512))
    mean = task.module.encode(space.pictures).latent_dist.mean.detach()
    shifted = [
        task.module.encode(torch.roll(space.pictures, (y, x), (2, 3))).latent_dist.mean.detach()
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
    # 256 numbers a picture: the strength that was drawn, to about 5 %.
    assert 0.23 < noise.max() < 0.29
    assert noise.min() < 0.01
    assert float(noise.mean()) == pytest.approx(0.125, abs=0.01)


def test_scaling_factor_is_the_inverse_of_the_latents_spread(tmp_path, data_folder, tiny_checkpoint):
    space = _workspace(tmp_path, data_folder, tiny_checkpoint)
    network = checkpoint.load_network(AutoencoderKL, tiny_checkpoint / "vae")
    vae.write_vae(space, network, rescale=True)
    posterior = network.encode(space.pictures).latent_dist
    draws = torch.cat([posterior.sample(torch.Generator().manual_seed(i)) for i in range(50)])
    factor = AutoencoderKL.load_config(tmp_path / "vae")["scaling_factor"]
    assert factor == pytest.approx(1 / draws.std().item(), rel=0.01)
    assert network.dtype == torch.float32


def test_denoiser_loss_is_zero_for_a_network_that_knows_v(tmp_path, data_folder, tiny_checkpoint):
    """An oracle that knows the only picture's latents gives v exactly, so scale, noise and target must all be right."""
    space = _workspace(tmp_path, data_folder, tiny_checkpoint, count=1)
    network = checkpoint.load_network(AutoencoderKL, tiny_checkpoint / "vae")
    with torch.no_grad():
        network.quant_conv.weight[4:] = 0
        network.quant_conv.bias[4:] = -30
    checkpoint.write_component(network.half(), tmp_path / "vae")
    network = network.float()
    clean = network.encode(space.pictures).latent_dist.mean.detach() * network.config.scaling_factor
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


def _kill_at_step_3(monkeypatch, name, space, session):
    advance = loop.Run.advance

    def until_killed(run):
        if run.step == 3:
            raise _Killed
        return advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "advance", until_killed)
        with pytest.raises(_Killed):
            stages.run_stage(name, space, session, CHANGES)
    return 2


def _run_out_of_time(_monkeypatch, name, space, session):
    assert not stages.run_stage(name, space, dataclasses.replace(session, minutes=1e-9), CHANGES)
    return 1


@pytest.mark.parametrize("stop", [_kill_at_step_3, _run_out_of_time])
@pytest.mark.parametrize("name", ["vae", "vae-decoder", "denoiser"])
def test_a_stopped_run_resumes_to_the_same_weights(name, stop, tmp_path, data_folder, tiny_checkpoint, monkeypatch):
    session = loop.Session(report=_silent, save_every=2)
    whole = tmp_path / "whole"
    space = _workspace(whole, data_folder, tiny_checkpoint)
    assert stages.run_stage(name, space, session, CHANGES)

    parts = tmp_path / "parts"
    saved = stop(monkeypatch, name, _workspace(parts, data_folder, tiny_checkpoint), session)
    file = parts / "checkpoints" / f"{name}.pt"
    assert checkpoint.load_state(file)["step"] == saved
    torch.rand(17)  # whatever else the process drew meanwhile must not matter
    again = dataclasses.replace(session, resume=True)
    assert stages.run_stage(name, _workspace(parts, data_folder, tiny_checkpoint), again, CHANGES)

    one, two = _weights(whole, whole / "checkpoints" / f"{name}.pt"), _weights(parts, file)
    assert one.keys() == two.keys()
    different = [key for key in one if not torch.equal(one[key], two[key])]
    assert not different
    assert len(one) > 100


def test_another_seed_gives_other_weights(tmp_path, data_folder, tiny_checkpoint):
    session = loop.Session(report=_silent)
    for seed in (4, 5):
        space = _workspace(tmp_path / str(seed), data_folder, tiny_checkpoint)
        stages.run_stage("denoiser", space, session, {**CHANGES, "seed": seed})
    one, two = (load_file(tmp_path / s / "unet" / "diffusion_pytorch_model.safetensors") for s in "45")
    assert not torch.equal(one["conv_out.weight"], two["conv_out.weight"])


def test_out_of_time_stops_resumably(tmp_path, data_folder, tiny_checkpoint):
    space = _workspace(tmp_path, data_folder, tiny_checkpoint)
    lines = []
    session = loop.Session(report=lines.append, minutes=1e-9)
    assert not stages.run_stage("denoiser", space, session, CHANGES)
    assert lines[-1] == "denoiser: stopped at step 1 of 5; --resume continues it"
    assert stages.run_stage("denoiser", space, loop.Session(report=lines.append, resume=True), CHANGES)
    assert lines[-1].startswith("denoiser: step 5/5, loss ")
    assert stages.run_stage("denoiser", space, loop.Session(report=lines.append, resume=True), CHANGES)
    assert lines[-1] == "denoiser: finished before, at step 5"


def test_from_scratch_takes_architecture_vocabulary_and_seed(tmp_path, data_folder, tiny_checkpoint):
    space = _workspace(tmp_path / "a", data_folder, tiny_checkpoint, scratch=True)
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


def test_training_from_scratch_lowers_the_loss(tmp_path, data_folder, tiny_checkpoint):
    space = _workspace(tmp_path, data_folder, tiny_checkpoint, scratch=True)
    options = loop.Options(steps=60, batch=16, lr=1e-2, warmup=5)
    run = loop.Run(denoiser.denoiser_task(space, options), options)
    losses = [float(run.advance()) for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_what_is_written_opens_in_diffusers_and_names_no_folder(tmp_path, data_folder, tiny_checkpoint):
    space = _workspace(tmp_path, data_folder, tiny_checkpoint)
    for name in stages.STAGES:
        stages.run_stage(name, space, loop.Session(report=_silent), CHANGES)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path)
    assert pipeline.unet.config.sample_size == 8
    assert {str(v.dtype) for f in tmp_path.glob("*/*.safetensors") for v in load_file(f).values()} == {"torch.float16"}
    assert not [f for f in tmp_path.rglob("*.json") if str(tmp_path) in f.read_text() or "/tiny" in f.read_text()]
    assert all(f.stat().st_mode & 0o777 == 0o644 for f in tmp_path.glob("*/*.safetensors"))
    assert not list(tmp_path.glob(".*"))


def test_a_checkpoint_is_not_overwritten_without_resume(tmp_path, data_folder, tiny_checkpoint):
    space = _workspace(tmp_path, data_folder, tiny_checkpoint)
    stages.run_stage("denoiser", space, loop.Session(report=_silent), CHANGES)
    with pytest.raises(CheckpointError, match=r"denoiser.pt holds an earlier run .*--resume, or train into another"):
        stages.run_stage("denoiser", space, loop.Session(report=_silent), CHANGES)
    with pytest.raises(CheckpointError, match=r"made with batch 3 \(now 7\), lr 0.01 \(now 0.02\)\. Resume with the"):
        stages.run_stage("denoiser", space, loop.Session(resume=True), {**CHANGES, "batch": 7, "lr": 2e-2})
    fewer = _workspace(tmp_path, data_folder, tiny_checkpoint, count=3)
    with pytest.raises(CheckpointError, match=r"made with data .* \(now "):
        stages.run_stage("denoiser", fewer, loop.Session(resume=True), CHANGES)


def test_a_loss_that_is_no_number_reaches_no_checkpoint(tmp_path):
    module = torch.nn.Linear(1, 1)
    losses = iter([1.0, 1.0, math.nan, 1.0])
    task = loop.Task(stage="s", module=module, loss=lambda _: module.weight.sum() * next(losses), data="d")
    session = loop.Session(report=_silent, save_every=1)
    with pytest.raises(DiffoundryError, match=r"s: the loss is nan near step 3\. .*lower --lr"):
        loop.train(task, OPTIONS, session, tmp_path / "s.pt", lambda _: None)
    state = checkpoint.load_state(tmp_path / "s.pt")
    assert state["step"] == 2
    assert torch.isfinite(state["module"]["weight"]).all()


def test_a_save_that_breaks_off_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    file = tmp_path / "s.pt"
    checkpoint.save_state({"step": 1}, file)

    def half(_state, handle):
        handle.write(b"PK half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save_state({"step": 2}, file)
    assert checkpoint.load_state(file)["step"] == 1


class _Code:
    def __reduce__(self):
        return (print, ("code ran",))


def test_checkpoints_that_cannot_be_trusted_are_refused(tmp_path, capsys):
    file = tmp_path / "s.pt"
    checkpoint.save_state({"step": 1, "weights": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:-600])
    with pytest.raises(CheckpointError, match=r"s.pt cannot be read .*remove it to start the stage again"):
        checkpoint.load_state(file)
    torch.save({"format": 1, "step": _Code()}, file)
    with pytest.raises(CheckpointError, match=r"cannot be read \(UnpicklingError\)"):
        checkpoint.load_state(file)
    assert "code ran" not in capsys.readouterr().out
    torch.save({"format": 2}, file)
    with pytest.raises(CheckpointError, match="has format 2, expected 1"):
        checkpoint.load_state(file)


def test_missing_parts_are_named(tmp_path, data_folder, tiny_checkpoint):
    emoji = data.load_emoji(data_folder)
    space = Workspace(out=tmp_path, init=None, architecture=tiny_checkpoint, emoji=emoji, pictures=data.pictures(emoji))
    for name, missing, stage in (("vae-decoder", "vae", "vae"), ("denoiser", "tokenizer", "tokenizer")):
        with pytest.raises(CheckpointError, match=f"has no {missing} yet. Run --stage {stage} first, or .*--init"):
            stages.run_stage(name, space, loop.Session(), {})
    with pytest.raises(CheckpointError, match=r"nowhere lacks model_index.json, .*unet, vae\."):
        checkpoint.prepare_folder(tmp_path, tmp_path / "nowhere")


def test_weights_of_another_vocabulary_are_refused(tmp_path, data_folder, tiny_checkpoint):
    space = _workspace(tmp_path, data_folder, tiny_checkpoint)
    shutil.rmtree(tmp_path / "tokenizer")
    stages.make_tokenizer(tmp_path, data.load_emoji(data_folder), _silent)
    with pytest.raises(CheckpointError, match="The tokenizers of .* differ, .*Train into an empty folder"):
        stages.run_stage("denoiser", space, loop.Session(), CHANGES)
