"""The emoji model's training loop: schedule, averaging, checkpoints, and runs that stop and resume."""

import copy
import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from diffoundry.runtime.errors import CheckpointError, DiffoundryError  # noqa: E402
from diffoundry_models.emoji.training import checkpoint, loop, stages  # noqa: E402

OPTIONS = loop.Options(steps=5, batch=3, lr=1e-2, warmup=2, decay=0.9, seed=4)
CHANGES = {"steps": 5, "batch": 3, "lr": 1e-2, "warmup": 2, "seed": 4}


def _silent(_line):
    pass


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

    run = loop.Run(loop.TrainingTask(stage="s", module=module, loss=loss_of(module), data="d"), OPTIONS)
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


@pytest.mark.slow_cases("vae-*", "denoiser-_run*")
@pytest.mark.parametrize("stop", [_kill_at_step_3, _run_out_of_time])
@pytest.mark.parametrize("name", ["vae", pytest.param("vae-decoder", marks=pytest.mark.slow), "denoiser"])
def test_a_stopped_run_resumes_to_the_same_weights(name, stop, tmp_path, workspace, monkeypatch):
    session = loop.Session(report=_silent, save_every=2)
    whole = tmp_path / "whole"
    space = workspace(whole)
    assert stages.run_stage(name, space, session, CHANGES)

    parts = tmp_path / "parts"
    saved = stop(monkeypatch, name, workspace(parts), session)
    file = parts / "checkpoints" / f"{name}.pt"
    assert checkpoint.load_state(file)["step"] == saved
    torch.rand(17)  # whatever else the process drew meanwhile must not matter
    again = dataclasses.replace(session, resume=True)
    assert stages.run_stage(name, workspace(parts), again, CHANGES)

    one, two = _weights(whole, whole / "checkpoints" / f"{name}.pt"), _weights(parts, file)
    assert one.keys() == two.keys()
    different = [key for key in one if not torch.equal(one[key], two[key])]
    assert not different
    assert len(one) > 100


def test_another_seed_gives_other_weights(tmp_path, workspace):
    session = loop.Session(report=_silent)
    for seed in (4, 5):
        space = workspace(tmp_path / str(seed))
        stages.run_stage("denoiser", space, session, {**CHANGES, "seed": seed})
    one, two = (load_file(tmp_path / s / "unet" / "diffusion_pytorch_model.safetensors") for s in "45")
    assert not torch.equal(one["conv_out.weight"], two["conv_out.weight"])


def test_out_of_time_stops_resumably(tmp_path, workspace):
    space = workspace(tmp_path)
    lines = []
    session = loop.Session(report=lines.append, minutes=1e-9)
    assert not stages.run_stage("denoiser", space, session, CHANGES)
    assert lines[-1] == "denoiser: stopped at step 1 of 5; --resume continues it"
    assert stages.run_stage("denoiser", space, loop.Session(report=lines.append, resume=True), CHANGES)
    assert lines[-1].startswith("denoiser: step 5/5, loss ")
    assert stages.run_stage("denoiser", space, loop.Session(report=lines.append, resume=True), CHANGES)
    assert lines[-1] == "denoiser: finished before, at step 5"


def test_a_checkpoint_is_not_overwritten_without_resume(tmp_path, workspace):
    space = workspace(tmp_path)
    stages.run_stage("denoiser", space, loop.Session(report=_silent), CHANGES)
    with pytest.raises(CheckpointError, match=r"denoiser.pt holds an earlier run .*--resume, or train into another"):
        stages.run_stage("denoiser", space, loop.Session(report=_silent), CHANGES)
    with pytest.raises(CheckpointError, match=r"made with batch 3 \(now 7\), lr 0.01 \(now 0.02\)\. Resume with the"):
        stages.run_stage("denoiser", space, loop.Session(resume=True), {**CHANGES, "batch": 7, "lr": 2e-2})
    fewer = workspace(tmp_path, count=3)
    with pytest.raises(CheckpointError, match=r"made with data .* \(now "):
        stages.run_stage("denoiser", fewer, loop.Session(resume=True), CHANGES)


def test_a_loss_that_is_no_number_reaches_no_checkpoint(tmp_path):
    module = torch.nn.Linear(1, 1)
    losses = iter([1.0, 1.0, math.nan, 1.0])
    task = loop.TrainingTask(stage="s", module=module, loss=lambda _: module.weight.sum() * next(losses), data="d")
    session = loop.Session(report=_silent, save_every=1)
    with pytest.raises(DiffoundryError, match=r"s: the loss is nan near step 3\. .*lower --lr"):
        loop.train(task, OPTIONS, session, tmp_path / "s.pt", lambda _: None)
    state = checkpoint.load_state(tmp_path / "s.pt")
    assert state["step"] == 2
    assert torch.isfinite(state["module"]["weight"]).all()


def test_progress_is_reported_once_a_step_also_when_saving(tmp_path):
    module = torch.nn.Linear(1, 1)
    losses = iter([4.0, 3.0, 2.0, 1.0, 0.5])
    task = loop.TrainingTask(stage="s", module=module, loss=lambda _: module.weight.sum() * 0 + next(losses), data="d")
    lines = []
    session = loop.Session(report=lines.append, report_every=0, save_every=1)
    assert loop.train(task, OPTIONS, session, tmp_path / "s.pt", lambda _: None)
    assert [line.split(", rate")[0] for line in lines] == [
        f"s: step {step}/5, loss {loss:.4f}" for step, loss in zip(range(1, 6), (4, 3, 2, 1, 0.5), strict=True)
    ]
    assert lines[-1].endswith("left 0:00:00")


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
